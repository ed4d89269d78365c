"""Background requests stand still in vLLM's scheduler while people chat."""
