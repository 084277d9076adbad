"""Which layers each pipeline stage holds."""


def stage_layers(n_layers: int, n_stages: int) -> tuple[range, ...]:
    """Return the layers of each stage: equal shares, the rest one each from the last but one stage backwards.

    The last stage is spared because it also holds the output head.

    Source:
        vLLM 0.33, distributed/utils.py, get_pp_indices.

    >>> [len(layers) for layers in stage_layers(61, 4)]
    [15, 15, 16, 15]
    """
    share, rest = divmod(n_layers, n_stages)
    counts = [share] * n_stages
    for stage in range(rest):
        counts[n_stages - 2 - stage] += 1
    stages = []
    start = 0
    for count in counts:
        stages.append(range(start, start + count))
        start += count
    return tuple(stages)
