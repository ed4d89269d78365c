"""What a chunk of KV is called: the one definition of a key.

A chunk's key covers everything that its bytes depend on: the weights and what else computes them (the fingerprint),
whose they are (the salt), and every token up to its end (the chain). Equal keys, equal bytes; another user's equal
words have other keys. No key depends on Python's hash seed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT = 1  # of keys and files together; a change makes all that is stored a miss
KEY_BYTES = 32
Tokens = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Span:
    """Some consecutive tokens of a prompt, as one chunk. start: the place of the first of them in the prompt."""

    key: bytes
    parent: bytes
    start: int
    tokens: Tokens


def as_tokens(ids: Sequence[int] | npt.NDArray[Any]) -> Tokens:
    """Token ids as keys and files have them: uint32 [n]."""
    return np.asarray(ids, dtype=np.uint32)


def fingerprint(facts: Mapping[str, Any]) -> bytes:
    """The digest of everything that changes KV besides the tokens. facts: JSON values."""
    canonical = json.dumps({"format": FORMAT, **facts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()


def root(salt: str, fingerprint: bytes) -> bytes:
    """Where all chains of one salt over one model begin. The salt is secret, so that nobody can guess a key."""
    return hmac.digest(salt.encode(), b"lightmem-kv\0" + fingerprint, "sha256")


def following(parent: bytes, tokens: Tokens) -> bytes:
    """The key of the chunk with these tokens behind `parent`."""
    return hashlib.sha256(parent + tokens.astype("<u4").tobytes()).digest()


def spans(root: bytes, tokens: Tokens, size: int) -> list[Span]:
    """A prompt as chunks of `size` tokens; the last one may be shorter."""
    found, parent = [], root
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        key = following(parent, part)
        found.append(Span(key, parent, start, part))
        parent = key
    return found
