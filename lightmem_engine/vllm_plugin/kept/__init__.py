"""What `connector` is made of: whole blocks of vLLM's cache to files and back."""
