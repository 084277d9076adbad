"""How large ggml's compute buffers become: its best-fit allocator, run over sizes alone.

Source: llama.cpp 0c1e570, ggml/src/ggml-alloc.c.
"""

from vramcalc.engines._ggml.scheduler import Schedule
from vramcalc.engines._ggml.tensor import Tensor, same_layout

_DEVICE_ALIGNMENT, _HOST_ALIGNMENT = 128, 32
_ENDLESS = 1 << 62


class _Buffer:
    """One growing buffer: free blocks in order of address, the last one without end."""

    __slots__ = ("alignment", "blocks", "peak")

    def __init__(self, alignment: int) -> None:
        self.alignment = alignment
        self.blocks: list[list[int]] = [[0, _ENDLESS]]
        self.peak = 0

    def take(self, n_bytes: int) -> int:
        """Return the address of a new block: the best fitting gap, else the end; of equals the later one."""
        n_bytes += -n_bytes % self.alignment
        blocks = self.blocks
        best, best_size = len(blocks) - 1, _ENDLESS
        for index in range(len(blocks) - 1):
            if n_bytes <= blocks[index][1] <= best_size:
                best, best_size = index, blocks[index][1]
        block = blocks[best]
        address = block[0]
        block[0] += n_bytes
        block[1] -= n_bytes
        if not block[1]:
            del blocks[best]
        self.peak = max(self.peak, address + n_bytes)
        return address

    def give_back(self, address: int, n_bytes: int) -> None:
        """Free a block and join it with free neighbours; freeing nothing may leave a block of nothing."""
        n_bytes += -n_bytes % self.alignment
        blocks = self.blocks
        at = 0
        while at < len(blocks) and blocks[at][0] + blocks[at][1] < address:
            at += 1
        if blocks[at][0] + blocks[at][1] == address:
            blocks[at][1] += n_bytes
        elif address + n_bytes == blocks[at][0]:
            blocks[at][0] = address
            blocks[at][1] += n_bytes
            return
        else:
            blocks.insert(at, [address, n_bytes])
            return
        if at + 1 < len(blocks) and blocks[at][0] + blocks[at][1] == blocks[at + 1][0]:
            blocks[at][1] += blocks[at + 1][1]
            del blocks[at + 1]


class _Allocator:
    """All buffers of one graph."""

    __slots__ = ("buffers", "cpu")

    def __init__(self, n_devices: int) -> None:
        self.cpu = n_devices
        self.buffers = [_Buffer(_DEVICE_ALIGNMENT) for _ in range(n_devices)] + [_Buffer(_HOST_ALIGNMENT)]

    def size(self, tensor: Tensor, buffer: int) -> int:
        n_bytes = tensor.n_bytes if buffer == self.cpu else tensor.device_bytes
        return n_bytes + -n_bytes % self.buffers[buffer].alignment

    def place(self, node: Tensor) -> None:
        """Give a node its memory: a source's that nobody else needs, or new."""
        if node.allocated or node.root is not None or node.home is not None:
            return
        node.allocated = True
        if node.in_place:
            for parent in node.srcs:
                if self._takes_over(node, parent):
                    return
        node.buffer = node.backend
        node.address = self.buffers[node.buffer].take(self.size(node, node.buffer))

    def _takes_over(self, node: Tensor, parent: Tensor) -> bool:
        """Let a node overwrite its source: never through a view, though the code path for that exists."""
        if not parent.allocated or parent.kept or parent.n_children != 1 or parent.n_views:
            return False
        if not same_layout(node, parent):
            return False
        node.buffer, node.address = parent.buffer, parent.address
        parent.allocated = False
        return True

    def release(self, parent: Tensor) -> None:
        """Note that one user of a tensor is done, and free it after the last."""
        parent.n_children -= 1
        if parent.n_children or parent.n_views:
            return
        owner = parent
        if parent.root is not None:
            owner = parent.root
            owner.n_views -= 1
            if owner.n_views or owner.n_children:
                return
        if owner.allocated and not owner.kept:
            self.buffers[owner.buffer].give_back(owner.address, self.size(owner, owner.buffer))
            owner.allocated = False


def buffer_sizes(plan: Schedule, n_devices: int) -> tuple[int, ...]:
    """Return the bytes of each GPU's compute buffer, and of the host's behind them."""
    allocator = _Allocator(n_devices)
    for leaf in plan.leafs:
        allocator.place(leaf)
    for node in plan.nodes:
        if node.root is not None:
            node.root.n_views += 1
        for source in node.srcs:
            source.n_children += 1
    for node in plan.nodes:
        if node.op != "dep":
            for source in node.srcs:
                allocator.place(source)
            allocator.place(node)
        for source in node.srcs:
            allocator.release(source)
    return tuple(buffer.peak for buffer in allocator.buffers)
