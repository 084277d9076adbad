"""The parts of the vLLM engine: rules by version, weights of a rank, KV pool, fitted terms, parallel sizes."""
