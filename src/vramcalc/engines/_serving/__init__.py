"""What SGLang and TensorRT-LLM share: ranks, formats, rows of a flat token pool, lines of a bill."""
