"""KV caches on disk: a bounded, verified store of chunks that knows keys and bytes, and nothing of models."""
