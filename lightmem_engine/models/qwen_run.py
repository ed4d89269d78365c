"""One completion in progress."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from lightmem_engine.models.decoding import Sampler, TextStream
from lightmem_engine.models.kv_bytes import layout_of, restore
from lightmem_engine.models.logprobs import token_logprob
from lightmem_engine.models.roomy_cache import roomy_cache
from lightmem_engine.models.served_attention import Watch
from lightmem_engine.models.shifted import COMPUTED, Stretch
from lightmem_engine.types import CacheOwner, Delta, FinishReason, Sampling, TokenLogprob, Usage

if TYPE_CHECKING:
    from lightmem_engine.kv.match import Found
    from lightmem_engine.models.qwen import QwenModel

_PREFILL_TOKENS = 512
_MEASURED_TOKENS = 64  # shorter pieces say little about the speed of reading


class Run:
    """One completion in progress; lives on the worker's thread."""

    def __init__(
        self,
        owner: QwenModel,
        prompt: list[int],
        schema: Mapping[str, Any] | None,
        sampling: Sampling,
        *,
        opening: str = "",
        salt: str = "",
        kept: tuple[CacheOwner, int] | None = None,
        thread: int = 0,
    ) -> None:
        """opening: text that the template has already written on the model's behalf.   salt: see `Prompt`.   kept:
        whose the cache of the first so many tokens is, if it is to be kept.   thread: of conversation, 0 for none."""
        self.prompt = prompt
        self.salt = salt
        self._owner = owner
        self._kept = kept
        self._thread = thread
        self._generated: list[int] = []
        self._opening = opening
        self._sampler = Sampler(sampling)
        self._top_logprobs = sampling.top_logprobs
        self._logprobs: list[TokenLogprob] = []
        self._text = TextStream(owner._tokenizer, sampling.stop)
        self._mask = owner._matcher(schema) if schema is not None else None
        room = owner.max_context - len(prompt)
        self._limit = room if sampling.max_tokens is None else min(room, sampling.max_tokens)
        self._num_fed, self._cache = owner._cache.match(prompt, salt)
        if self._cache is None:
            self._cache = roomy_cache(owner._model.config.num_hidden_layers, len(prompt))
        self.num_cached = self._num_fed
        self._logits: torch.Tensor | None = None
        self._said: list[str] = []
        self.watch: Watch | None = None
        self._stretch: Stretch | None = None
        self._is_sought = owner.rotation is not None and bool(salt) and schema is None  # chats alone
        self._is_exact = True

    def adopt(self, found: Found) -> None:
        """Begin from a cache that was kept."""
        model = self._owner._model
        parts = (found.payloads, found.num_tokens, model.device, len(self.prompt))
        self._cache = restore(layout_of(model), self._cache, self._num_fed, *parts)
        self._num_fed = self.num_cached = found.num_tokens

    def prefill(self) -> bool:
        """Read the next chunk of the prompt; true once it has been read to its end."""
        started = time.perf_counter()
        part = self.prompt[self._num_fed : min(self._num_fed + _PREFILL_TOKENS, self._next_stop())]
        self._feed(part)
        if self._owner.kept is not None and len(part) >= _MEASURED_TOKENS:
            self._owner.kept.rates.computed(len(part), time.perf_counter() - started)
        self._take_stretch()
        return self._num_fed == len(self.prompt)

    def advance(self) -> Delta:
        """One more token."""
        if self._generated:
            self._feed(self._generated[-1:])
        assert self._logits is not None
        logits = self._logits
        if self._mask is not None:
            logits = logits.clone()
            self._mask.apply(logits)
        token = self._sampler.draw(logits)
        self._generated.append(token)
        if token in self._owner._end_tokens:
            return self._end("", "stop")
        if self._top_logprobs is not None:
            self._logprobs.append(token_logprob(self._owner._tokenizer, self._logits, token, self._top_logprobs))
        if self._mask is not None:
            self._mask.accept(token)
        text = self._text.push(token)
        if self._text.stopped:
            return self._end(text, "stop")
        if len(self._generated) >= self._limit:
            return self._end(text, "length")
        return self._delta(text) if text or self._opening else Delta()

    def store(self) -> None:
        """Hand what was read and written to the prefix cache, the front of it to those that are kept, and what was seen
        meanwhile to who asked for it."""
        if self.watch is not None:
            self.watch.finish("".join(self._said))
        if not self._is_exact:  # nobody is to take it for what it is not, nor turn it again
            return
        owner, tokens = self._owner, [*self.prompt, *self._generated][: self._num_fed]
        owner._cache.put(tokens, self._cache, self.salt, self._thread)
        if owner.kept is not None and self._kept is not None and self._num_fed >= self._kept[1] > 0:
            owner.kept.offer(tokens[: self._kept[1]], self._cache, self.salt, self._kept[0])

    def _next_stop(self) -> int:
        """Up to where the prompt is computed next."""
        if self._is_sought:
            self._is_sought = False
            self._stretch = self._owner._cache.shifted(self.prompt, self.salt, self._num_fed)
        return len(self.prompt) if self._stretch is None else self._stretch.start + COMPUTED

    def _take_stretch(self) -> None:
        """Take what stands at this place from a cache where it stood elsewhere."""
        stretch, rotation = self._stretch, self._owner.rotation
        if stretch is None or rotation is None or self._num_fed < stretch.start + COMPUTED:
            return
        with torch.inference_mode():
            stretch.copy_into(self._cache, rotation)
        self._num_fed = stretch.stop
        self.num_cached += stretch.taken
        self._stretch, self._is_exact = None, False
        if self._owner.kept is not None:
            self._owner.kept.store.counters.count("approximate_tokens", stretch.taken)

    def _end(self, text: str, reason: FinishReason) -> Delta:
        return self._delta(text + self._text.finish(), reason, self._usage())

    def _delta(self, text: str, reason: FinishReason | None = None, usage: Usage | None = None) -> Delta:
        opening, self._opening = self._opening, ""
        self._said.append(text)
        logprobs, self._logprobs = tuple(self._logprobs), []
        return Delta(opening + text, reason, usage, logprobs)

    def _usage(self) -> Usage:
        return Usage(len(self.prompt), len(self._generated), self.num_cached)

    @torch.inference_mode()
    def _feed(self, tokens: list[int]) -> None:
        model = self._owner._model
        ids = torch.tensor([tokens], device=model.device)
        with nullcontext() if self.watch is None else self.watch.looking():
            output = model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._num_fed += len(tokens)
        self._logits = output.logits[0, -1].float().cpu()
