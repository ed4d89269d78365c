"""Our store behind vLLM's own offloading, for CUDA."""
