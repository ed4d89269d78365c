"""Which KV a loaded model makes: the digest of its weights and of all else that the values depend on."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import transformers

from lightmem_engine.kv.files import digest
from lightmem_engine.kv.keys import fingerprint

EXACT = "layers,kv,heads,tokens,dim"


def fingerprint_of(model: Any, tokenizer: Any, chunk_tokens: int, stored: str = EXACT) -> bytes:
    """Read from the live module, so that another dtype, merged adapters or a changed rotary buffer are seen.

    A name or a path says nothing: a checkpoint may be replaced under it.   stored: the layout of what is kept, by name.
    """
    config = model.config
    return fingerprint(
        {
            "weights": _weights(model),
            "dtype": str(model.dtype),
            "device": model.device.type,
            "layers": config.num_hidden_layers,
            "kv_heads": config.num_key_value_heads,
            "layer_types": getattr(config, "layer_types", None),
            "window": getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", False) else None,
            "rope": str(sorted((getattr(config, "rope_parameters", None) or {}).items(), key=str)),
            "norm": config.rms_norm_eps,
            "attention": config._attn_implementation,
            "tokenizer": hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest(),
            "versions": [torch.__version__.partition("+")[0], transformers.__version__],
            "chunk_tokens": chunk_tokens,
            "layout": stored,
        }
    )


def _weights(model: Any) -> str:
    """The digest over all parameters and buffers, the rotary frequencies among them."""
    whole = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        plain = tensor.detach().to_dense() if tensor.is_mkldnn else tensor.detach()
        data = plain.cpu().contiguous().view(-1).view(torch.uint8).numpy()
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + digest(data))
    return whole.hexdigest()
