"""Every word the engine says to a language model, by version."""
