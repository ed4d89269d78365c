"""Every word the engine says to a language model. One module per frozen version; the current one is `v1`."""

from lightmem_engine.prompts import v1

__all__ = ["v1"]
