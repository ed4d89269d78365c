"""From logits to tokens, from tokens to text: sampling, grammar masks, incremental text with stop strings."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xgrammar

from lightmem_engine.errors import InvalidInput
from lightmem_engine.types import Sampling

_MAX_GRAMMARS = 32


def check_sampling(sampling: Sampling) -> None:
    """Raise `InvalidInput` for a value outside its range."""
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise InvalidInput(f"max_tokens must be at least 1, got {sampling.max_tokens}")
    if not sampling.temperature >= 0:
        raise InvalidInput(f"temperature must be 0 or more, got {sampling.temperature}")
    if not 0 < sampling.top_p <= 1:
        raise InvalidInput(f"top_p must be above 0 and at most 1, got {sampling.top_p}")
    for name in ("presence_penalty", "frequency_penalty"):
        if not -2 <= getattr(sampling, name) <= 2:
            raise InvalidInput(f"{name} must be between -2 and 2, got {getattr(sampling, name)}")


class Sampler:
    """Draws the next token. Temperature 0 is greedy; equal seeds give equal draws."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._counts: Counter[int] = Counter()
        self._generator = torch.Generator(device="cpu")
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)

    def draw(self, logits: torch.Tensor) -> int:
        """logits: float32 [vocab] on the CPU. What was drawn before is made less likely by the penalties."""
        token = self._draw(self._penalised(logits))
        self._counts[token] += 1
        return token

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        frequency, presence = self._sampling.frequency_penalty, self._sampling.presence_penalty
        if not self._counts or (frequency == 0 and presence == 0):
            return logits
        tokens = torch.tensor(list(self._counts))
        counts = torch.tensor(list(self._counts.values()), dtype=logits.dtype)
        return logits.index_add(0, tokens, -(frequency * counts + presence))

    def _draw(self, logits: torch.Tensor) -> int:
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits / self._sampling.temperature, dim=-1)
        if self._sampling.top_p < 1:
            ordered, index = probabilities.sort(descending=True)
            # The token that crosses top_p is the last one kept.
            beyond = ordered.cumsum(-1) - ordered >= self._sampling.top_p
            probabilities = torch.zeros_like(probabilities).scatter(0, index, ordered.masked_fill(beyond, 0.0))
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


class Grammars:
    """JSON Schemas compiled for one tokenizer; the most recent 32 are kept. Used from one thread only."""

    def __init__(self, tokenizer: Any, vocab_size: int, stop_token_ids: Sequence[int]) -> None:
        info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocab_size, stop_token_ids=list(stop_token_ids)
        )
        self._vocab_size = vocab_size
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def matcher(self, schema: Mapping[str, Any]) -> GrammarMask:
        """A fresh matcher at the start of the schema's grammar. Raises `InvalidInput` for an unusable schema."""
        text = json.dumps(schema)
        if text in self._compiled:
            self._compiled.move_to_end(text)
            return GrammarMask(self._compiled[text], self._vocab_size)
        try:
            compiled = self._compiler.compile_json_schema(text, any_whitespace=False, separators=(",", ":"))
        except RuntimeError as error:
            raise InvalidInput(f"the JSON Schema cannot be enforced: {error}") from error
        self._compiled[text] = compiled
        if len(self._compiled) > _MAX_GRAMMARS:
            self._compiled.popitem(last=False)
        return GrammarMask(compiled, self._vocab_size)


class GrammarMask:
    """Forbids what the grammar does not allow next."""

    def __init__(self, compiled: Any, vocab_size: int) -> None:
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._mask = xgrammar.allocate_token_bitmask(1, vocab_size)

    def apply(self, logits: torch.Tensor) -> None:
        """Set forbidden entries of logits, float32 [vocab] on the CPU, to minus infinity, in place."""
        self._matcher.fill_next_token_bitmask(self._mask)
        xgrammar.apply_token_bitmask_inplace(logits[None], self._mask, backend="cpu")

    def accept(self, token: int) -> None:
        """Advance past a token that `apply` allowed."""
        self._matcher.accept_token(token)


class TextStream:
    """Turns tokens into text as they come, holding back half characters and possible stop strings."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._decoded_from = 0  # tokens before this are behind us
        self._decoded_to = 0  # text of tokens before this is in `_held` or out
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Text that is now certain; empty while in doubt. Sets `stopped` at a stop string, which is not returned."""
        self._ids.append(token)
        done = self._decode(self._ids[self._decoded_from : self._decoded_to])
        text = self._decode(self._ids[self._decoded_from :])
        if text.endswith("\ufffd"):  # the bytes of a character are not complete yet
            return ""
        self._decoded_from, self._decoded_to = self._decoded_to, len(self._ids)
        return self._release(text[len(done) :])

    def finish(self) -> str:
        """What was held back."""
        if self.stopped:
            return ""
        done = self._decode(self._ids[self._decoded_from : self._decoded_to])
        text = self._release(self._decode(self._ids[self._decoded_from :])[len(done) :])
        self._decoded_from = self._decoded_to = len(self._ids)
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return certain
        doubtful = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - doubtful
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that begins the stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
