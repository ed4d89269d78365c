"""A Qwen2, Qwen2.5 or Qwen3 checkpoint in this process, through transformers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lightmem_engine.errors import BackendUnavailable, ConfigError, ContextTooLong, Overloaded
from lightmem_engine.kv.rates import Rates
from lightmem_engine.models import attend
from lightmem_engine.models.chat_template import opened_thought, render, stable_length
from lightmem_engine.models.checkpoint import progress_on_terminals_only
from lightmem_engine.models.decoding import Grammars, check_sampling
from lightmem_engine.models.kv_bytes import layout_of
from lightmem_engine.models.kv_calibrate import load_rate, prefill_rate
from lightmem_engine.models.kv_fingerprint import fingerprint_of
from lightmem_engine.models.kv_rotate import Rotation
from lightmem_engine.models.kv_storage import Kind, Storage, storage_of
from lightmem_engine.models.laid_out import lay_out
from lightmem_engine.models.prefix_cache import PrefixCache, common_prefix
from lightmem_engine.models.qwen_checkpoint import check_prompt_version, end_tokens, quiet_in_a_pipe
from lightmem_engine.models.qwen_run import Run
from lightmem_engine.models.served_attention import Reader
from lightmem_engine.models.worker import StepRunner, StepWorker
from lightmem_engine.types import CacheOwner, Completion, Delta, FinishReason, Priority, Prompt, Sampling, Usage

if TYPE_CHECKING:
    from lightmem_engine.kv.store import KVStore
    from lightmem_engine.models.kv_tier import KVTier

T = TypeVar("T")

_MODEL_TYPES = ("qwen2", "qwen3")


class QwenModel:
    """`LanguageModel` over a loaded checkpoint.

    Every step (a chunk of prefill, one token) goes to the worker by itself, so an urgent request overtakes running
    background work at the next step. The prefix caches in memory are dropped by `forget`; those that are kept beyond
    the process are in `kept`, if it is set. With `rotation` what stood elsewhere in an earlier prompt is turned to its
    place now, which is not exact, and nothing made of it is cached.
    """

    kept: KVTier | None = None
    rotation: Rotation | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        cache_bytes: int = 0,
        worker: StepRunner | None = None,
        reader: Reader | None = None,
    ) -> None:
        """Takes over the model: nobody else may use it.   reader: looks on while chats are read and answered."""
        self.name = name
        attend.use(model)
        lay_out(model)
        self._reader = reader
        if reader is not None:
            reader.attach(model)
        self.max_context = int(model.config.max_position_embeddings)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens(model, tokenizer)
        self._cache = PrefixCache(cache_bytes)
        self._grammars: Grammars | None = None
        self._own_worker: StepWorker | None = None
        if worker is None:
            worker = self._own_worker = StepWorker(f"language model {name}")
        self._worker: StepRunner = worker

    @classmethod
    def load(
        cls,
        source: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        cache_bytes: int = 0,
        name: str = "",
        worker: StepRunner | None = None,
        reader: Reader | None = None,
    ) -> QwenModel:
        """Load a path or a hub name. Raises `ConfigError` if there is none, if it is no dense Qwen2 or Qwen3, or if
        it was trained on other prompts than this version speaks."""
        check_prompt_version(source)
        progress_on_terminals_only()
        try:
            config = AutoConfig.from_pretrained(source)
            if config.model_type not in _MODEL_TYPES:
                raise ConfigError(
                    f"{source} is a {config.model_type} model; the in-process backend runs {' and '.join(_MODEL_TYPES)}"
                    " (serve others with vLLM and set lm.url)"
                )
            tokenizer = AutoTokenizer.from_pretrained(source)
            with quiet_in_a_pipe():
                model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype)).to(device)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot load a language model from {source!r}: {error}") from error
        return cls(model, tokenizer, name=name or source, cache_bytes=cache_bytes, worker=worker, reader=reader)

    async def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling, priority: Priority) -> list[Completion]:
        """One after another, so that each finds the prefix of the one before it in the cache."""
        return [await self._complete(prompt, sampling, priority) for prompt in prompts]

    async def stream(self, prompt: Prompt, *, sampling: Sampling, priority: Priority) -> AsyncGenerator[Delta, None]:
        """Raises `InvalidInput` when the prompt is malformed or longer than the context."""
        check_sampling(sampling)
        is_chat = priority is Priority.FOREGROUND and prompt.schema is None
        run = await self._step(lambda: self._open(prompt, sampling, is_chat), priority)
        try:
            await self._read(run, priority)
            while True:
                delta = await self._step(run.advance, priority)
                if delta.text or delta.finish_reason:
                    yield delta
                if delta.finish_reason:
                    break
        finally:
            # Not awaited: this also runs when the caller has cancelled. What was computed stays of use.
            with suppress(BackendUnavailable):
                self._worker.submit(run.store, Priority.FOREGROUND)

    async def prefill(self, prompt: Prompt, beside: Prompt, priority: Priority) -> int:
        """Read the front that two prompts share, and keep it for the owner of the first; how many tokens that is."""
        shared = common_prefix(self._encode(prompt), self._encode(beside))
        tokens = self._encode(prompt)[:shared]
        await self.read_ahead(tokens, prompt.salt, priority, prompt.owner)
        return shared

    async def read_ahead(
        self, tokens: list[int], salt: str, priority: Priority, cache_owner: CacheOwner | None = None
    ) -> None:
        """Have a prompt's first tokens in the cache before anybody asks."""
        if not 0 < len(tokens) < self.max_context:
            return
        kept = (cache_owner, len(tokens)) if cache_owner else None
        run = await self._step(lambda: Run(self, tokens, None, Sampling(), salt=salt, kept=kept), priority)
        await self._read(run, priority)
        await self._step(run.store, priority)

    async def uncached(self, prompt: Prompt, num_read: int) -> int:
        """Known: all but what lies in memory, or on disk."""

        def look() -> tuple[list[int], int]:
            tokens = self._encode(prompt)
            return tokens, self._cache.reach(tokens, prompt.salt)

        tokens, found = await self._step(look, Priority.INGEST)
        if self.kept is not None and prompt.salt:
            places = await asyncio.to_thread(self.kept.places, tokens[:-1], prompt.salt)
            found = max([found, *(place.start + place.take for place in places)])
        return len(tokens) - found

    def count(self, prompt: Prompt) -> int:
        """Tokens of the prompt as the model will read it."""
        return len(self._encode(prompt))

    def describe_kv(self, store: KVStore, chunk_tokens: int, kind: Kind = "exact") -> tuple[bytes, Storage, Rates]:
        """Which KV this model makes, how it is stored, and how fast; takes a moment. Raises `OSError`."""
        model = self._model
        storage = storage_of(kind, layout_of(model))
        fingerprint = fingerprint_of(model, self._tokenizer, chunk_tokens, storage.name)
        return fingerprint, storage, Rates(prefill_rate(model), load_rate(store, storage))

    def reuse_approximately(self) -> None:
        """From now on take what was read at another place, too. Raises `ConfigError` if the model does not allow it."""
        self.rotation = Rotation.of(self._model)

    async def forget(self) -> None:
        """Drop every cached prefix in memory, and what was seen of chats."""
        if self._reader is not None:
            self._reader.forget()
        await self._step(self._cache.clear, Priority.FOREGROUND)

    async def aclose(self) -> None:
        """End the model's own worker; an injected one is its owner's."""
        if self._own_worker is not None:
            await asyncio.to_thread(self._own_worker.close)

    async def _complete(self, prompt: Prompt, sampling: Sampling, priority: Priority) -> Completion:
        parts: list[str] = []
        reason: FinishReason = "stop"
        usage = Usage()
        async for delta in self.stream(prompt, sampling=sampling, priority=priority):
            parts.append(delta.text)
            reason, usage = delta.finish_reason or reason, delta.usage or usage
        return Completion("".join(parts), reason, usage)

    async def _read(self, run: Run, priority: Priority) -> None:
        """The prompt to its end: what is kept of it is loaded, the rest computed."""
        if self.kept is not None and run.salt:
            found = await self.kept.fetch(run.prompt, run.salt, run.num_cached)
            if found is not None:
                await self._step(lambda: run.adopt(found), priority)
        while not await self._step(run.prefill, priority):
            pass

    async def _step(self, step: Callable[[], T], priority: Priority) -> T:
        try:
            return await asyncio.wrap_future(self._worker.submit(step, priority))
        except torch.OutOfMemoryError as error:
            raise Overloaded(f"{self.name}: no device memory left for this request") from error

    def _open(self, prompt: Prompt, sampling: Sampling, is_chat: bool) -> Run:
        text = render(self._tokenizer, prompt, self.name)
        tokens = self._tokens(text)
        if len(tokens) >= self.max_context:
            raise ContextTooLong(
                f"the prompt has {len(tokens)} tokens; {self.name} reads at most {self.max_context - 1}"
            )
        kept = None
        if self.kept is not None and prompt.owner is not None and prompt.salt:
            kept = prompt.owner, stable_length(self._tokenizer, prompt, tokens)
        opening = opened_thought(text)
        thread = prompt.owner.thread if prompt.owner is not None else 0
        known = (self, tokens, prompt.schema, sampling)
        run = Run(*known, opening=opening, salt=prompt.salt, kept=kept, thread=thread)
        if is_chat and self._reader is not None:
            run.watch = self._reader.begin(prompt.messages, text, self._offsets(text))
        return run

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        read = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets: list[tuple[int, int]] = read["offset_mapping"]
        return offsets

    def _encode(self, prompt: Prompt) -> list[int]:
        return self._tokens(render(self._tokenizer, prompt, self.name))

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _matcher(self, schema: Mapping[str, Any]) -> Any:
        if self._grammars is None:
            self._grammars = Grammars(self._tokenizer, self._model.config.vocab_size, sorted(self._end_tokens))
        return self._grammars.matcher(schema)
