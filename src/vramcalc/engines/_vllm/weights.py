"""Bytes of the weights on each rank, as vLLM's own model classes allocate them, and what loading changes.

Source:
    vLLM 0.33, model_executor/layers: linear.py, vocab_parallel_embedding.py, fused_moe, quantization, rotary_embedding.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import prod

from msgspec import Struct
from msgspec.structs import replace

from vramcalc.engines._vllm.allocator import Held, rounding_bytes
from vramcalc.engines._vllm.experts import Swizzle, expert_share, has_narrow_experts, padded_elements
from vramcalc.engines._vllm.rules import (
    ELEMENT_BYTES,
    Capability,
    family_starts,
    has_sinks,
    has_wide_heads,
)
from vramcalc.formulas.inventory import Split, TensorGroup, tensor_groups
from vramcalc.formulas.weights import Storage
from vramcalc.placement.pipeline import stage_layers
from vramcalc.placement.tensor_shares import Heads, on_rank
from vramcalc.specs.formats import ScaledFormat, WeightFormat
from vramcalc.specs.model import (
    Attention,
    Dtype,
    GroupedQueryAttention,
    Mamba2,
    Mixer,
    ModelSpec,
    MoeMlp,
    NoAttention,
    RopeTable,
)
from vramcalc.units import round_up

LAYER_SCALES_BYTES = 24  # of each attention layer: scales of q, k, v and the output
_SPARE_SCALES_BYTES = 8  # of these, what the end of loading frees where tokens are not quantised too
_QUANTISED_STEPS = ("fp8", "int8")
_HOPPER = 9
_LATENT = ("attn_k_b", "attn_v_b")
_INT4 = frozenset({"awq-4bit", "gptq-4bit"})
_REGROUPED = _INT4 | {"fp8-block"}
_PADDED_AFTER_LOADING = _INT4 | {"nvfp4"}
_SMALLER_GROUPS = (64, 32)
_F32_ROUTERS = "minimax"  # families whose model class keeps the router in f32
_SPLIT_PROJECTORS = ("qwen", "llama")
_KEPT = frozenset(  # what no method quantises
    {
        "indexer.attn_k",
        "indexer.proj",
        "attn_compressor_kv",
        "attn_compressor_gate",
        "indexer_compressor_kv",
        "indexer_compressor_gate",
    }
)
_GROUPED = frozenset({"ssm_in", "ssm_conv1d", "ssm_conv1d.bias"})  # tensors that hold Mamba-2's B and C
_F32_PARTS = ("hc_", "output_hc_", "indexer.k_norm")
_F32_NAMES = frozenset({"ssm_a", "ffn_gate_tid2eid"})
_BOTH_ENDS = "qwen"  # families whose model class, where it has experts, keeps embedding and head on every stage


class RankWeights(Struct, frozen=True):
    """What each rank of a stage holds, by role or buffer; ``changes`` is what the end of loading adds or frees."""

    parts: Mapping[str, int]
    changes: Mapping[str, int]
    rounding_bytes: int = 0  # what the allocator adds, as the tensors are loaded

    @property
    def n_bytes(self) -> int:
        """Bytes before loading is finished."""
        return sum(self.parts.values())

    def beside(self, buffers: Mapping[str, int]) -> "RankWeights":
        """Return the same weights with further buffers."""
        return replace(self, parts={**self.parts, **buffers})


class WeightRules(Struct, frozen=True, kw_only=True):
    """A model in one format on one kind of card."""

    model: ModelSpec
    storage: Storage
    dtype: Dtype
    card: Capability
    expert_multiple: int  # what a rank's share of an mxfp4 expert is rounded up to as it is loaded
    hidden_multiple: int
    copies_latent: bool
    swizzle: Swizzle | None = None  # what Hopper's kernels make of mxfp4 experts afterwards

    def stages(
        self, tensor_parallel: int, pipeline_parallel: int, *, expert_ranks: int, whole_experts: bool
    ) -> tuple[RankWeights, ...]:
        """Return the weights of a rank for each pipeline stage; the ranks of a stage are alike."""
        ranges = stage_layers(self.model.layers.n_layers, pipeline_parallel)
        parts: list[dict[str, int]] = [{} for _ in ranges]
        changes: list[dict[str, int]] = [{} for _ in ranges]
        order = self.model.layers.order()
        held: list[Held] = []
        for group, stored in self._stored():
            kind = self.model.layers.kinds[order[group.layers[0]]] if group.layers else None
            heads = Heads.of(kind.attention) if kind else None
            whole = _with_copied_groups(group, kind.mixer if kind else None, tensor_parallel)
            n_ranks = expert_ranks if group.role == "experts" else tensor_parallel
            share = self._on_rank(whole, heads, n_ranks, whole_experts=whole_experts)
            if kind and group.name == "attn_k" and _values_are_keys(kind.attention):
                share = replace(share, copies=2 * share.copies)  # vLLM gives V a matrix of its own, equal to K's
            fmt = stored if isinstance(stored, ScaledFormat) and group.name not in _KEPT else None
            n_bytes, (name, change) = self._stack_bytes(share, fmt), self._change(share, fmt)
            held.append(Held(share, self._parts(share, fmt, n_bytes), self._times_on(group, ranges)))
            for stage, times in enumerate(held[-1].times):
                _add(parts[stage], group.role, n_bytes * times)
                _add(changes[stage], name, change * times)
        self._add_buffers(parts, changes, ranges)
        tables = [self._table_bytes(table) for table in self.model.rope_tables]
        rounding = [rounding_bytes(held, stage, layers, tables) for stage, layers in enumerate(ranges)]
        return tuple(map(RankWeights, parts, changes, rounding))

    def _stored(self) -> Iterator[tuple[TensorGroup, WeightFormat]]:
        for group in tensor_groups(self.model):
            yield from self.storage.parts(group)

    def _on_rank(self, group: TensorGroup, heads: Heads | None, n_ranks: int, *, whole_experts: bool) -> TensorGroup:
        """Return a rank's share; towers as the model's class splits them.

        Gemma 4's tower is transformers' own, whole on every rank; the projectors of Llama 4 and Qwen are split.
        """
        if group.role in ("vision", "projector") and family_starts(self.model, "gemma") and has_wide_heads(self.model):
            return group
        if group.role == "projector" and group.is_matrix and family_starts(self.model, *_SPLIT_PROJECTORS):
            group = replace(group, split=Split.COLUMN)
        return on_rank(group, heads, n_ranks, whole_experts=whole_experts)

    def _add_buffers(self, parts: list[dict[str, int]], changes: list[dict[str, int]], ranges: Iterable[range]) -> None:
        """Add the rope tables, which every rank keeps in full, and the scales of its attention layers.

        gpt-oss keeps its table in f32 (model_executor/models/gpt_oss.py); others in the model's dtype unless stated.
        """
        order, kinds = self.model.layers.order(), self.model.layers.kinds
        tables = sum(map(self._table_bytes, self.model.rope_tables))
        for part, change, layers in zip(parts, changes, ranges, strict=True):
            _add(part, "rope_tables", tables)
            attending = sum(not isinstance(kinds[order[layer]].attention, NoAttention) for layer in layers)
            _add(part, "layer_scales", LAYER_SCALES_BYTES * attending)
            if not self.storage.fmt.name.startswith(_QUANTISED_STEPS):
                _add(change, "dropped_scales", -_SPARE_SCALES_BYTES * attending)

    def _table_bytes(self, table: RopeTable) -> int:
        is_f32 = has_sinks(self.model) or table.dtype == "f32"
        return table.positions * table.dim * ELEMENT_BYTES["f32" if is_f32 else self.dtype]

    def _times_on(self, group: TensorGroup, ranges: tuple[range, ...]) -> list[int]:
        """Return how many layers' worth of the group each stage holds: embedding first, norm and head last."""
        if group.layers:
            return [sum(layer in stage for layer in group.layers) for stage in ranges]
        is_end = group.name == "token_embd" or group.name.startswith("output")
        if is_end and self.model.is_moe and family_starts(self.model, _BOTH_ENDS):
            return [1] * len(ranges)
        times = [0] * len(ranges)
        times[-1 if group.role == "head" or group.name.startswith("output_norm") else 0] = 1
        if self.model.head == "tied" and group.name == "token_embd":
            times[-1] = 1
        return times

    def _stack_bytes(self, group: TensorGroup, fmt: ScaledFormat | None) -> int:
        """Return the bytes of the group's tensors in one layer; ``fmt`` is None for what is not quantised."""
        *rows, columns = self._padded(group, fmt).shape
        if fmt is None or not rows or _takes_4_bytes(group):
            is_f32 = _takes_4_bytes(group) or (group.role == "router" and family_starts(self.model, _F32_ROUTERS))
            return prod(group.shape) * ELEMENT_BYTES["f32" if is_f32 else self.dtype] * group.copies
        one = self._regrouped(group, fmt).matrix_bytes(prod(rows), columns)
        if group.role == "experts" and fmt.method == "gptq" and not has_narrow_experts(group):
            one += rows[0] * ELEMENT_BYTES[self.dtype]  # a bias per expert matrix, dropped when loading ends
        return one * group.copies

    def _parts(self, group: TensorGroup, fmt: ScaledFormat | None, n_bytes: int) -> tuple[int, ...]:
        """Return the bytes of the elements, the scales and the zeros, which are tensors of their own."""
        if fmt is None:
            return (n_bytes,)
        *rows, columns = self._padded(group, fmt).shape
        elements = prod((*rows, columns)) * group.copies * fmt.element_bits // 8
        zeros = self._regrouped(group, fmt).zeros_bytes(prod(rows), columns) * group.copies
        return elements, n_bytes - elements - zeros, zeros

    def _regrouped(self, group: TensorGroup, fmt: ScaledFormat) -> ScaledFormat:
        """Return the format of a group: expert shares that 128 does not divide take smaller scale groups."""
        if fmt.name not in _REGROUPED or not has_narrow_experts(group):
            return fmt
        size = next((s for s in _SMALLER_GROUPS if expert_share(group) % s == 0), _SMALLER_GROUPS[-1])
        if fmt.name == "fp8-block":
            return replace(fmt, group_rows=size, group_columns=size)
        return replace(fmt, group_columns=size, group_bits=20 if fmt.method == "awq" else 16)

    def _padded(self, group: TensorGroup, fmt: ScaledFormat | None) -> TensorGroup:
        """Round mxfp4 experts up to what the kernel of the card wants."""
        if self.storage.fmt.name != "mxfp4" or fmt is None or group.role != "experts":
            return group
        rows, *columns = group.shape
        of_rows, of_columns = self.hidden_multiple, self.expert_multiple
        if group.split is Split.COLUMN:
            of_rows, of_columns = of_columns, of_rows
        return replace(group, shape=(round_up(rows, of_rows), *(round_up(c, of_columns) for c in columns)))

    def _change(self, group: TensorGroup, fmt: ScaledFormat | None) -> tuple[str, int]:
        """Return what the end of loading does to the group's tensors in one layer: a name and bytes.

        AWQ on Hopper's Machete kernel widens zeros from 4 to 16 bits; symmetric GPTQ drops them elsewhere (Marlin), and
        for experts on Hopper; int4 and nvfp4 experts are padded there; latent attention in fp8 keeps a copy of K and V
        projections in the model's dtype; mxfp4 experts are laid out anew.
        """
        if group.role == "experts":
            return self._expert_change(group, fmt)
        elements = prod(group.shape) * group.copies
        if group.name in _LATENT and (self.copies_latent or (fmt is not None and fmt.name.startswith("fp8"))):
            return "latent_copies", elements * ELEMENT_BYTES[self.dtype]
        if fmt is None:
            return "", 0
        zeros = self._zeros_bytes(group, fmt)
        hopper = self.card[0] == _HOPPER
        if fmt.method == "awq" and hopper:
            return "widened_zeros", 3 * zeros
        if fmt.method == "gptq" and not hopper:
            return "dropped_zeros", -zeros
        return "", 0

    def _expert_change(self, group: TensorGroup, fmt: ScaledFormat | None) -> tuple[str, int]:
        if self.swizzle is not None and self.storage.fmt.name == "mxfp4":
            return "swizzled_experts", self.swizzle.change(self._padded(group, fmt), fmt, gated=self._gates_experts)
        if fmt is None:
            return "", 0
        hopper = self.card[0] == _HOPPER
        if fmt.name in _PADDED_AFTER_LOADING and hopper and has_narrow_experts(group):
            before, elements = self._stack_bytes(group, fmt), prod(group.shape)
            padded = padded_elements(group, gated=self._gates_experts)
            return "expert_padding", before * padded // elements - before
        if fmt.method == "gptq" and not has_narrow_experts(group):
            biases = group.shape[0] * group.copies * ELEMENT_BYTES[self.dtype]
            return "dropped_zeros", -biases - (self._zeros_bytes(group, fmt) if hopper else 0)
        return "", 0

    @property
    def _gates_experts(self) -> bool:
        return any(isinstance(kind.mlp, MoeMlp) and kind.mlp.gated for kind in self.model.layers.kinds.values())

    @staticmethod
    def _zeros_bytes(group: TensorGroup, fmt: ScaledFormat) -> int:
        *rows, columns = group.shape
        return fmt.zeros_bytes(prod(rows), columns) * group.copies


def _values_are_keys(attention: Attention) -> bool:
    return isinstance(attention, GroupedQueryAttention) and attention.v_is_k


def _with_copied_groups(group: TensorGroup, mixer: Mixer | None, n_ranks: int) -> TensorGroup:
    """Return a Mamba-2 tensor with as many groups of B and C as ranks, where the ranks do not divide the groups.

    Source:
        vLLM 0.33, model_executor/layers/mamba/mamba_utils.py, extra_groups_for_head_shards.
    """
    if not isinstance(mixer, Mamba2) or group.name not in _GROUPED or mixer.n_groups % n_ranks == 0:
        return group
    rows = group.shape[0] + 2 * (n_ranks - mixer.n_groups) * mixer.state_dim
    return replace(group, shape=(rows, *group.shape[1:]))


def _takes_4_bytes(group: TensorGroup) -> bool:
    """Whether the model classes keep the tensor in f32 or int32 whatever the model's dtype."""
    is_correction = group.name == "ffn_gate_inp.bias" and not group.is_parameter
    is_named = group.name in _F32_NAMES or group.name.startswith(_F32_PARTS) or group.name.endswith("_ape")
    return is_correction or is_named


def _add(parts: dict[str, int], name: str, n_bytes: int) -> None:
    if n_bytes:
        parts[name] = parts.get(name, 0) + n_bytes
