"""A Qwen2, Qwen2.5 or Qwen3 checkpoint in this process, through transformers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lightmem_engine.errors import BackendUnavailable, ConfigError, ContextTooLong, Overloaded
from lightmem_engine.models.chat_template import opened_thought, render
from lightmem_engine.models.checkpoint import progress_on_terminals_only
from lightmem_engine.models.decoding import Grammars, Sampler, TextStream, check_sampling
from lightmem_engine.models.logprobs import token_logprob
from lightmem_engine.models.prefix_cache import PrefixCache
from lightmem_engine.models.served_attention import Reader, Watch
from lightmem_engine.models.worker import StepRunner, StepWorker
from lightmem_engine.prompts import v1
from lightmem_engine.types import Completion, Delta, FinishReason, Priority, Prompt, Sampling, TokenLogprob, Usage

T = TypeVar("T")

_PREFILL_TOKENS = 512
_MODEL_TYPES = ("qwen2", "qwen3")


class QwenModel:
    """`LanguageModel` over a loaded checkpoint.

    Every step (a chunk of prefill, one token) goes to the worker by itself, so an urgent request overtakes running
    background work at the next step. The prefix caches are dropped by `forget`.
    """

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
        """reader: looks on while chats are read and answered."""
        self.name = name
        self._reader = reader
        if reader is not None:
            reader.attach(model)
        self.max_context = int(model.config.max_position_embeddings)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._end_tokens = _end_tokens(model, tokenizer)
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
            with _quiet_in_a_pipe():
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
            while not await self._step(run.prefill, priority):
                pass
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

    def count(self, prompt: Prompt) -> int:
        """Tokens of the prompt as the model will read it."""
        return len(self._encode(prompt))

    async def forget(self) -> None:
        """Drop every cached prefix, and what was seen of chats."""
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

    async def _step(self, step: Callable[[], T], priority: Priority) -> T:
        try:
            return await asyncio.wrap_future(self._worker.submit(step, priority))
        except torch.OutOfMemoryError as error:
            raise Overloaded(f"{self.name}: no device memory left for this request") from error

    def _open(self, prompt: Prompt, sampling: Sampling, is_chat: bool) -> _Run:
        text = render(self._tokenizer, prompt, self.name)
        tokens = self._tokens(text)
        if len(tokens) >= self.max_context:
            raise ContextTooLong(
                f"the prompt has {len(tokens)} tokens; {self.name} reads at most {self.max_context - 1}"
            )
        run = _Run(self, tokens, prompt.schema, sampling, opened_thought(text))
        if is_chat and self._reader is not None:
            run.watch = self._reader.begin(prompt.messages, text, self._offsets(text))
        return run

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        return found

    def _encode(self, prompt: Prompt) -> list[int]:
        return self._tokens(render(self._tokenizer, prompt, self.name))

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _matcher(self, schema: Mapping[str, Any]) -> Any:
        if self._grammars is None:
            self._grammars = Grammars(self._tokenizer, self._model.config.vocab_size, sorted(self._end_tokens))
        return self._grammars.matcher(schema)


class _Run:
    """One completion in progress; lives on the worker's thread."""

    def __init__(
        self,
        owner: QwenModel,
        prompt: list[int],
        schema: Mapping[str, Any] | None,
        sampling: Sampling,
        opening: str = "",
    ) -> None:
        """opening: text that the template has already written on the model's behalf."""
        self._owner = owner
        self._prompt = prompt
        self._generated: list[int] = []
        self._opening = opening
        self._sampler = Sampler(sampling)
        self._top_logprobs = sampling.top_logprobs
        self._logprobs: list[TokenLogprob] = []
        self._text = TextStream(owner._tokenizer, sampling.stop)
        self._mask = owner._matcher(schema) if schema is not None else None
        room = owner.max_context - len(prompt)
        self._limit = room if sampling.max_tokens is None else min(room, sampling.max_tokens)
        self._num_fed, self._cache = owner._cache.match(prompt)
        self._num_cached = self._num_fed
        self._said: list[str] = []
        self.watch: Watch | None = None
        self._logits: torch.Tensor | None = None

    def prefill(self) -> bool:
        """Read the next chunk of the prompt; true once it has been read to its end."""
        self._feed(self._prompt[self._num_fed : self._num_fed + _PREFILL_TOKENS])
        return self._num_fed == len(self._prompt)

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
        """Hand what was read and written to the prefix cache, and what was seen meanwhile to who asked for it."""
        if self.watch is not None:
            self.watch.finish("".join(self._said))
        self._owner._cache.put([*self._prompt, *self._generated][: self._num_fed], self._cache)

    def _end(self, text: str, reason: FinishReason) -> Delta:
        return self._delta(text + self._text.finish(), reason, self._usage())

    def _delta(self, text: str, reason: FinishReason | None = None, usage: Usage | None = None) -> Delta:
        opening, self._opening = self._opening, ""
        self._said.append(text)
        logprobs, self._logprobs = tuple(self._logprobs), []
        return Delta(opening + text, reason, usage, logprobs)

    def _usage(self) -> Usage:
        return Usage(len(self._prompt), len(self._generated), self._num_cached)

    @torch.inference_mode()
    def _feed(self, tokens: list[int]) -> None:
        model = self._owner._model
        ids = torch.tensor([tokens], device=model.device)
        with nullcontext() if self.watch is None else self.watch.looking():
            output = model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._num_fed += len(tokens)
        self._logits = output.logits[0, -1].float().cpu()


def check_prompt_version(source: str) -> None:
    """Raise `ConfigError` if the checkpoint in this folder was trained on another version of the prompts."""
    record = Path(source) / "lightmem.json"
    if not record.is_file():
        return
    trained_on = json.loads(record.read_text("utf-8")).get("prompt_version")
    if trained_on != v1.VERSION:
        raise ConfigError(
            f"{source} was trained on prompts {trained_on}, this engine speaks {v1.VERSION}: "
            "install the engine release it came with, or train it again on the current prompts"
        )


@contextmanager
def _quiet_in_a_pipe() -> Iterator[None]:
    """A progress bar is for a terminal."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    if was_enabled and not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    ends.add(tokenizer.get_added_vocab().get("<|im_end|>"))
    return frozenset(int(end) for end in ends if end is not None)
