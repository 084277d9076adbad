"""Which device runs which node, and what is copied where: ggml's scheduler.

Source: llama.cpp 0c1e570, ggml/src/ggml-backend.cpp, ggml_backend_sched_split_graph, passes 1 to 6.
"""

from msgspec import Struct, field

from vramcalc.engines._ggml.tensor import CPU, UNASSIGNED, VIEW_OPS, Graph, Tensor

_LEAST_BATCH = 32  # rows from which an operation on host weights is worth moving (GGML_OP_OFFLOAD_MIN_BATCH)
_FOLLOWS_NO_WEIGHT = frozenset({"rope", "flash_attention"})
_PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES


class Schedule(Struct):
    """Nodes in running order with the copies between devices, and the leaves to allocate first.

    A ``"dep"`` node keeps its sources alive until its turn.
    """

    nodes: list[Tensor] = field(default_factory=list)
    leafs: list[Tensor] = field(default_factory=list)


class _Split(Struct):
    backend: int
    nodes: list[Tensor]
    inputs: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def schedule(graph: Graph, n_devices: int, *, op_offload: bool = True, pipeline: bool = False) -> Schedule:
    """Assign every node to a GPU (0 ...) or to the CPU (``n_devices``) and insert the copies this needs."""
    cpu = n_devices
    nodes = [node for node in graph.nodes if node.op not in VIEW_OPS]
    for tensor in (*graph.leafs, *graph.nodes):
        tensor.backend = _first_choice(tensor, cpu, op_offload=op_offload)
    for down, skips_cpu in ((True, True), (False, True), (True, False), (False, False)):
        _expand(nodes if down else nodes[::-1], cpu, skips_cpu=skips_cpu)
    _assign_rest(graph, nodes, cpu)
    copies = _PIPELINE_COPIES if pipeline else 1
    twins: list[Tensor] = []
    splits = _split(graph, copies, twins)
    return _with_copies(graph, splits, copies, twins, cpu)


def _first_choice(tensor: Tensor, cpu: int, *, op_offload: bool) -> int:
    root = tensor.root or tensor
    if root.home is not None:  # it exists already and cannot move
        return cpu if root.home == CPU else root.home
    if tensor.is_input:
        return cpu
    if tensor.op in _FOLLOWS_NO_WEIGHT:
        return UNASSIGNED
    for source in tensor.srcs:
        if source.op == "weight":
            if source.home != CPU:
                return source.home if source.home is not None else UNASSIGNED
            return 0 if op_offload and cpu and tensor.batch >= _LEAST_BATCH else cpu
    return UNASSIGNED


def _runs_on(node: Tensor, backend: int, cpu: int) -> bool:
    """A GPU reads no other GPU's weights, and has no kernel for some operations."""
    if backend == cpu:
        return True
    is_foreign = any(s.home is not None and s.home not in (CPU, backend) for s in node.srcs)
    return not node.cpu_only and not is_foreign


def _expand(nodes: list[Tensor], cpu: int, *, skips_cpu: bool) -> None:
    current = UNASSIGNED
    for node in nodes:
        if node.backend != UNASSIGNED:
            current = UNASSIGNED if skips_cpu and node.backend == cpu else node.backend
        elif current != UNASSIGNED and _runs_on(node, current, cpu):
            node.backend = current


def _assign_rest(graph: Graph, nodes: list[Tensor], cpu: int) -> None:
    for node in nodes:
        if node.backend == UNASSIGNED:
            node.backend = next(b for b in range(cpu + 1) if _runs_on(node, b, cpu))
    for node in graph.nodes:
        if node.backend == UNASSIGNED and node.root is not None:
            node.backend = node.root.backend


def _split(graph: Graph, copies: int, twins: list[Tensor]) -> list[_Split]:
    first = next(node.backend for node in graph.nodes if node.op not in VIEW_OPS)
    current = _Split(first, [])
    splits = [current]
    copy_of: dict[tuple[int, int], Tensor] = {}
    for node in graph.nodes:
        if node.op in VIEW_OPS:
            current.nodes.append(node)
            continue
        if node.backend != current.backend or (current.inputs and _brings_weights(node)):
            current = _Split(node.backend, [])
            splits.append(current)
        srcs = list(node.srcs)
        for index, source in enumerate(srcs):
            if source.backend == current.backend:
                continue
            key = (id(source), current.backend)
            if key not in copy_of:
                copy_of[key] = _copy(source, current.backend, kept=copies > 1)
                twins += [_copy(source, current.backend, kept=True) for _ in range(copies - 1)]
                current.inputs.append((source, copy_of[key]))
            srcs[index] = copy_of[key]
        node.srcs = tuple(srcs)
        current.nodes.append(node)
    return splits


def _brings_weights(node: Tensor) -> bool:
    return any(s.op == "weight" and s.backend != node.backend for s in node.srcs)


def _copy(source: Tensor, backend: int, *, kept: bool) -> Tensor:
    twin = Tensor("copy", source.fmt, source.ne)
    twin.n_bytes = source.n_bytes
    twin.contiguous = source.contiguous
    twin.backend = backend
    twin.kept = kept
    return twin


def _dependency(*tensors: Tensor) -> Tensor:
    return Tensor("dep", tensors[0].fmt, (0, 0, 0, 0), tensors)


def _with_copies(graph: Graph, splits: list[_Split], copies: int, twins: list[Tensor], cpu: int) -> Schedule:
    result = Schedule()
    for split in splits:
        keep = _fused_sums(split.nodes) if split.backend != cpu else {}
        for source, twin in split.inputs:
            result.nodes += (_dependency(source), twin)
        for node in split.nodes:
            result.nodes.append(node)
            if id(node) in keep:
                result.nodes.append(_dependency(*keep[id(node)]))
    if copies > 1:
        for source in graph.leafs:
            if source.is_input:
                source.kept = True
                result.leafs += (source, *(_copy(source, source.backend, kept=True) for _ in range(copies - 1)))
        result.leafs += [twin for split in splits for _, twin in split.inputs] + twins
    result.leafs += graph.leafs
    return result


def _fused_sums(nodes: list[Tensor]) -> dict[int, tuple[Tensor, ...]]:
    """Return what CUDA keeps alive until a node: it sums weighted experts in one go, reading experts and weights."""
    found: dict[int, tuple[Tensor, ...]] = {}
    for index, node in enumerate(nodes):
        if node.op != "mul" or len(node.srcs) != 2:  # noqa: PLR2004 - experts times weights
            continue
        experts, weights = node.srcs
        used = node.ne[1]
        last = index + 2 * used - 1
        unscaled = experts.srcs[0] if experts.op == "mul" else experts
        is_chosen = unscaled.op in ("mul_mat_id", "add_id")
        is_weighting = is_chosen and weights.ne == (1, *node.ne[1:]) and experts.ne == node.ne and used > 1
        sums = nodes[index + 1 : last + 1]
        if is_weighting and last < len(nodes) and all(n.op in ("view", "add") for n in sums) and sums[-1].op == "add":
            found[id(nodes[last])] = (experts, weights)
    return found
