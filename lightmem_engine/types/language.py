"""What is said to a language model, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightmem_engine.types.base import FinishReason
from lightmem_engine.types.conversation import Scope


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn; the names are OpenAI's."""

    max_tokens: int | None = None  # None: up to the model's context
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int | None = None  # None: no log-probabilities; 0: of the drawn tokens alone


@dataclass(frozen=True, slots=True)
class CacheOwner:
    """What a kept KV cache was made of and ends with: a message of a chat (`link` of `thread`), or a segment."""

    scope: Scope
    thread: int = 0
    link: int = 0
    segment: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """OpenAI-style messages, and the JSON Schema that the answer must satisfy, if any.

    tools: OpenAI's function tools, for the chat template.   template_options: further variables of the template.
    salt: who may share caches of this prompt: prompts of the same salt.   owner: what a kept cache of it belongs to;
    None: none is kept beyond this process.
    """

    messages: tuple[Mapping[str, Any], ...]
    schema: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)
    salt: str = field(default="", repr=False)
    owner: CacheOwner | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer."""

    text: str
    finish_reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, the natural logarithm of its probability before sampling, and the likeliest alternatives."""

    token: str
    logprob: float
    raw: bytes
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer; the last one carries `finish_reason` and `usage`.

    logprobs: of the tokens drawn since the piece before this one, if they were asked for.
    """

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
