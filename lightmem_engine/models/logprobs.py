"""What the model thought of the token that was drawn, and of those that were not."""

from __future__ import annotations

from typing import Any

import torch

from lightmem_engine.types import TokenLogprob


def token_logprob(tokenizer: Any, logits: torch.Tensor, token: int, top: int) -> TokenLogprob:
    """logits: float32 [vocab] as the model gave them, before penalties, grammar and temperature."""
    scores = torch.log_softmax(logits, dim=-1)
    values, ids = scores.topk(min(top, len(scores)))
    best = tuple(_one(tokenizer, int(id), float(value)) for id, value in zip(ids, values, strict=True))
    drawn = _one(tokenizer, token, float(scores[token]))
    return TokenLogprob(drawn.token, drawn.logprob, drawn.raw, best)


def _one(tokenizer: Any, token: int, logprob: float) -> TokenLogprob:
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    return TokenLogprob(text, max(logprob, -9999.0), _bytes(tokenizer, token, text))


def _bytes(tokenizer: Any, token: int, text: str) -> bytes:
    """The token's own bytes; of a byte-level vocabulary also where they are half a character."""
    if "\ufffd" not in text:
        return text.encode()
    piece = str(tokenizer.convert_ids_to_tokens([token])[0] or "")
    if all(sign in _BYTE_OF for sign in piece):
        return bytes(_BYTE_OF[sign] for sign in piece)
    return text.encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in of each byte, which Qwen's tokenizers use."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
