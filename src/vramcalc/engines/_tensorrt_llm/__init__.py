"""TensorRT-LLM's own rules on its PyTorch backend: defaults, the lines of its bill, its command line."""
