"""vLLM with memory in the same server: its own front end, and one owner process beside it."""
