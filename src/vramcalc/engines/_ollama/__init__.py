"""Ollama's own rules around llama-server: its scheduler, its environment, what its tools print."""
