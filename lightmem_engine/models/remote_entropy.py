"""Entropy of words by a server's prompt log-probabilities: vLLM's, or any that answers `/completions` with `echo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from lightmem_engine.errors import BackendUnavailable, InvalidInput, ModelError
from lightmem_engine.text import num_tokens, scored_words
from lightmem_engine.types import Window, WindowScores, Word

_MAX_TOKENS = 2048
_MAX_WORDS = 500  # characters of a server's complaint that we repeat


class RemoteEntropyClassifier:
    """Scores words in nats, as `models.entropy` does, one request per window; it cannot see attention between texts,
    so segmentation goes by similarity alone. Blocks while the server works: it belongs on the device worker.
    """

    def __init__(self, url: str, model: str, *, api_key: str = "", timeout_seconds: float = 120.0) -> None:
        """url: the server's, ending in /v1.   model: may be empty, and the server is asked what it serves."""
        self.name = f"entropy({model or url})"
        self.max_tokens = _MAX_TOKENS
        self._model = model
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Nobody tells a classifier that it is no longer wanted, so no connection is left open between windows.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_seconds, limits=limits)

    def count(self, texts: Sequence[str]) -> list[int]:
        """About how many tokens each text has; the server's tokenizer is not at hand."""
        return [num_tokens(text) for text in texts]

    def score(self, windows: Sequence[Window]) -> list[WindowScores]:
        """One request per window. Raises `BackendUnavailable` if the server cannot be reached or is busy, `ModelError`
        if it does not return the log-probabilities of a prompt."""
        return [self._score(number, window) for number, window in enumerate(windows)]

    def _score(self, number: int, window: Window) -> WindowScores:
        if not 0 <= window.num_context <= len(window.texts) or not window.texts:
            raise InvalidInput(f"window {number}: {window.num_context} context texts among {len(window.texts)}")
        prompt = "\n".join(window.texts)
        starts, surprise = self._surprise(prompt)
        words: list[tuple[Word, ...]] = []
        at = 0
        for place, text in enumerate(window.texts):
            spans = scored_words(text) if place >= window.num_context else ()
            words.append(tuple(Word(a, b, _mean(starts, surprise, at + a, at + b)) for a, b in spans))
            at += len(text) + 1
        nothing = np.full(len(window.texts), np.nan, np.float32)
        return WindowScores(tuple(words), nothing, nothing.copy())

    def _surprise(self, prompt: str) -> tuple[Any, Any]:
        """Where each token of the prompt begins, int64, and its cross-entropy in nats, float64."""
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 0}
        answer = self._ask("POST", "/completions", {**body, "model": self._name()})
        try:
            found = answer["choices"][0]["logprobs"]
            starts = np.asarray(found["text_offset"], np.int64)
            surprise = np.array([0.0 if p is None else -float(p) for p in found["token_logprobs"]])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelError(f"{self.name}: the server returns no log-probabilities of the prompt") from error
        if len(starts) != len(surprise) or (len(starts) and (np.diff(starts) < 0).any()):
            raise ModelError(f"{self.name}: the server's log-probabilities do not fit its tokens")
        own = starts < len(prompt)  # without the token that it had to write
        return starts[own], surprise[own]

    def _name(self) -> str:
        if not self._model:
            try:
                self._model = str(self._ask("GET", "/models")["data"][0]["id"])
            except (KeyError, IndexError, TypeError) as error:
                raise ModelError(f"{self.name}: the server names no model; set lm.model") from error
        return self._model

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise BackendUnavailable(f"{self.name}: {error or type(error).__name__}") from error
        if answer.status_code in (429, 502, 503, 504):
            raise BackendUnavailable(f"{self.name}: the server answers {answer.status_code}")
        if answer.is_error:
            raise ModelError(f"{self.name}: {answer.status_code} {answer.text[:_MAX_WORDS]}")
        try:
            return answer.json()
        except ValueError as error:
            raise ModelError(f"{self.name}: the server's answer is no JSON") from error


def _mean(starts: Any, surprise: Any, start: int, end: int) -> float:
    """Of the tokens that reach into characters [start, end) of the prompt; nan if there are none."""
    first = int(np.searchsorted(starts, start, side="left"))
    # A character may take several tokens, which then begin at the same place; and a token may begin before the word.
    if first and (first == len(starts) or starts[first] > start):
        first -= 1
    last = int(np.searchsorted(starts, end, side="left"))
    return float(surprise[first:last].mean()) if first < last else float("nan")
