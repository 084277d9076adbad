"""What llama.cpp and Ollama share: ggml's tensors, graphs and allocators, as far as memory goes."""
