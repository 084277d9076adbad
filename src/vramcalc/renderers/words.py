"""What is said in words: the same sentences in every format."""

from collections import Counter

from vramcalc.reports.schema import MOST_SEQUENCES_TRIED, DeviceReport, EstimateReport, GpuReport, MachineReport
from vramcalc.units import format_gib

ENGINE_TITLES = {
    "ollama": "Ollama",
    "vllm": "vLLM",
    "llama.cpp": "llama.cpp",
    "sglang": "SGLang",
    "tensorrt-llm": "TensorRT-LLM",
}
_SLOW = 10  # tokens a second below which a decimal tells something
VERDICT_WORDS = {
    "fits": "fits",
    "tight": "tight",
    "offloads": "offloads",
    "streams_from_disk": "streams from disk",
    "does_not_fit": "does not fit",
    "unsupported": "unsupported",
}


def engine_title(estimate: EstimateReport) -> str:
    """Return e.g. ``"vLLM 0.33"``."""
    return f"{ENGINE_TITLES[estimate.engine.name]} {estimate.engine.version}".strip()


def subject(estimate: EstimateReport) -> str:
    """Return e.g. ``"Ollama q4_k_m"``, or ``"Ollama 0.5 q4_k_m"`` where a version was asked for."""
    title = engine_title(estimate) if estimate.engine.asked_version else ENGINE_TITLES[estimate.engine.name]
    return f"{title} {estimate.weight_format or ''}".strip()


def machine_words(machine: MachineReport, *, short: bool = False) -> str:
    """Return e.g. ``"2 x NVIDIA GeForce RTX 4090"``, or ``"2 x rtx4090"`` in short."""
    counts = Counter(gpu.id if short else gpu.name for gpu in machine.gpus)
    cards = " + ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items())
    return cards if machine.nodes == 1 else f"{machine.nodes} nodes of {cards}"


def memory_sentence(machine: MachineReport) -> str:
    """Return what is sold and what a process may use, per kind of card."""
    kinds = dict.fromkeys(machine.gpus)
    return "; ".join(_memory(gpu, named=len(kinds) > 1) for gpu in kinds)


def _memory(gpu: GpuReport, *, named: bool) -> str:
    start = f"{gpu.name}: " if named else ""
    return f"{start}{format_gib(gpu.usable_bytes)} usable of {format_gib(gpu.memory_bytes)} ({gpu.usable_basis})"


def verdict_sentence(estimate: EstimateReport) -> str:
    """Return the answer in a few words: fits or not, and by how much."""
    if estimate.refusal is not None:
        return f"{subject(estimate)} is unsupported: {estimate.refusal.reason}"
    tightest = min(
        (d for d in estimate.devices if d.headroom_bytes is not None and (d.kind == "gpu" or is_short(d))),
        key=lambda d: d.headroom_bytes or 0,
    )
    room = tightest.headroom_bytes or 0
    placement = estimate.placement
    layers = f"{placement.gpu_layers} of {placement.total_layers} layers on GPU" if placement else ""
    if placement and placement.expert_layers_on_gpu is not None and placement.gpu_layers == placement.total_layers:
        layers = f"experts of {placement.expert_layers_on_gpu} layers on GPU"
    spare = f"{format_gib(abs(room))} {'to spare' if room >= 0 else 'short'}"
    said = {
        "fits": f"fits, {spare}",
        "tight": f"is tight, {spare} by the best figure and none by the highest",
        "offloads": f"runs with {_offloaded(estimate)} in host memory ({layers})",
        "streams_from_disk": f"runs off the disk, slowly ({layers})",
        "does_not_fit": f"does not fit{' host memory' if tightest.kind == 'host' else ''}, {spare}",
    }[estimate.verdict]
    return f"{subject(estimate)} {said}{_smaller_context(estimate)}"


def _offloaded(estimate: EstimateReport) -> str:
    """Return what is off the GPUs: whole layers, or tensors of layers that are counted as on them."""
    placement = estimate.placement
    return "tensors" if placement and placement.gpu_layers == placement.total_layers else "layers"


def is_short(device: DeviceReport) -> bool:
    """Whether a device holds less than it needs."""
    return device.headroom_bytes is not None and device.headroom_bytes < 0


def _smaller_context(estimate: EstimateReport) -> str:
    limits, load = estimate.limits, estimate.workload
    if estimate.verdict != "does_not_fit" or limits is None or limits.max_context is None:
        return ""
    if load.n_context is None or limits.max_context >= load.n_context:
        return ""
    default = "its default " if "n_context" in load.assumed else ""
    return f" at {default}context {load.n_context:,} (starts with --context {limits.max_context})"


def assumed_sentence(estimate: EstimateReport) -> str:
    """Return the settings in force; those nobody asked for are marked with a star."""
    load = estimate.workload
    parts = [
        ("n_context", f"context {load.n_context:,}" if load.n_context else ""),
        ("n_sequences", f"{load.n_sequences} sequence{'s' if load.n_sequences != 1 else ''}"),
        ("n_slots", f"{load.n_slots} slot{'s' if load.n_slots != 1 else ''}" if load.n_slots else ""),
        ("k_format", f"{estimate.cache_format} cache" if estimate.cache_format else ""),
        ("step_tokens", f"{load.step_tokens:,} tokens a step" if load.step_tokens else ""),
        ("memory_share", f"{load.memory_share:.0%} of the card" if load.memory_share else ""),
        ("max_num_seqs", f"up to {load.max_num_seqs} sequences a step" if load.max_num_seqs else ""),
    ]
    said = [text + ("*" if name in load.assumed else "") for name, text in parts if text]
    placement = estimate.placement
    if placement and placement.tensor_parallel * placement.pipeline_parallel * placement.data_parallel > 1:
        replicas = f" x DP {placement.data_parallel}" if placement.data_parallel > 1 else ""
        said.append(f"TP {placement.tensor_parallel} x PP {placement.pipeline_parallel}{replicas}")
    return ", ".join(said)


def limits_sentence(estimate: EstimateReport) -> str:
    """Return how far it goes before the model leaves the GPUs."""
    limits = estimate.limits
    if limits is None or limits.max_context is None:
        return ""
    said = [f"context {limits.max_context:,}"]
    if limits.max_sequences:
        more = " or more" if limits.max_sequences == MOST_SEQUENCES_TRIED else ""
        said.append(f"{limits.max_sequences}{more} sequences of {estimate.workload.n_context:,}")
    text = f"up to {' or '.join(said)} on the GPUs"
    if limits.kv_cache_tokens:
        text += f"; KV pool {limits.kv_cache_tokens:,} tokens"
    return text


def speed_sentence(estimate: EstimateReport) -> str:
    """Return how fast it answers, with the range; nothing where it does not run or nobody knows."""
    speed = estimate.speed
    if speed is None or estimate.verdict == "does_not_fit":
        return ""
    rate = speed.decode_tokens_per_s
    said = f"{_per_s(rate.best)} tokens/s ({_per_s(rate.low)} to {_per_s(rate.high)}) at {speed.at_context:,} tokens"
    if speed.n_sequences > 1:
        said += f" to each of {speed.n_sequences}, {_per_s(speed.decode_total_tokens_per_s.best)} in all"
    if speed.decode_tokens_per_s_filled is not None:
        said += f", {_per_s(speed.decode_tokens_per_s_filled.best)} with the context full"
    first = speed.time_to_first_token_s.best
    prompt = f"a prompt at {_per_s(speed.prefill_tokens_per_s.best)} tokens/s"
    return f"{said}; {prompt}, first token after {first:.2g} s"


def _per_s(rate: float) -> str:
    if rate < 1:
        return f"{rate:.2g}"
    return f"{rate:.1f}" if rate < _SLOW else f"{rate:,.0f}"


def range_sentence(estimate: EstimateReport) -> str:
    """Return the need of the tightest GPU with its range."""
    tightest = min((d for d in estimate.devices if d.kind == "gpu"), key=lambda d: d.headroom_bytes or 0)
    low, high = format_gib(tightest.need_low_bytes), format_gib(tightest.need_high_bytes)
    return f"needs {format_gib(tightest.need_bytes)} ({low} to {high})"


def readouts_sentence(estimate: EstimateReport) -> str:
    """Return what the tools will show, each tool once."""
    texts: dict[str, list[str]] = {}
    for shown in estimate.readouts:
        texts.setdefault(shown.tool, []).append(shown.text)
    said = ", ".join(f"{tool} {_each(found)}" for tool, found in texts.items())
    return f"shown as {said}" if said else ""


def _each(texts: list[str]) -> str:
    return f"{len(texts)} x {texts[0]}" if len(texts) > 1 and len(set(texts)) == 1 else " + ".join(texts)
