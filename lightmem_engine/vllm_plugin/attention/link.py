"""The two halves of attention from vLLM's model as the connector holds them, and the way of what was seen to the owner.

A thread of its own tells the owner; if that is away, or slow, what was seen is lost and the engine goes by another
model's attention, as it does for every turn that no chat has shown.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import httpx

from lightmem_engine.runtime.complain import complain
from lightmem_engine.vllm_plugin.attention.backends import Watched
from lightmem_engine.vllm_plugin.attention.capture import Capture, Seen
from lightmem_engine.vllm_plugin.attention.plan import AttentionPlanner, Look
from lightmem_engine.vllm_plugin.kept.link import OwnerLink
from lightmem_engine.wire_kv import ATTENTION_PATH

MAX_QUEUED = 1024  # prompts; more are not told

logger = logging.getLogger(__name__)


def attention_planner(vllm_config: Any, block_size: int) -> AttentionPlanner:
    """The scheduler's half, with the model's tokenizer. Raises `ValueError` if that has no offsets."""
    from transformers import AutoTokenizer

    model = vllm_config.model_config
    tokenizer = AutoTokenizer.from_pretrained(
        model.tokenizer, revision=model.tokenizer_revision, trust_remote_code=model.trust_remote_code
    )
    if not tokenizer.is_fast:
        raise ValueError("classifier.source = served needs a fast tokenizer (tokenizer.json)")
    return AttentionPlanner(tokenizer, block_size)


class AttentionWorker:
    """The worker's half."""

    def __init__(self, vllm_config: Any, layers: Sequence[int], link: OwnerLink) -> None:
        """layers: whose attention is read; none: the last third. Raises `ValueError` for one that the model lacks."""
        count = int(vllm_config.model_config.get_num_layers(vllm_config.parallel_config))
        chosen = tuple(layers) or tuple(range(count - max(1, count // 3), count))
        if not all(0 <= layer < count for layer in chosen):
            raise ValueError(f"classifier.layers {chosen}: the model has layers 0 to {count - 1}")
        self._capture = Capture(chosen)
        self._link = link
        self._seen: queue.Queue[Seen | None] = queue.Queue(MAX_QUEUED)
        self._thread = threading.Thread(target=self._tell, name="lightmem-attention", daemon=True)
        self._thread.start()

    def begin(self, looks: Sequence[Look]) -> None:
        """A step begins."""
        self._capture.begin(looks)
        Watched.look = self._capture.look if looks else None

    def end(self) -> None:
        """A step is over."""
        Watched.look = None
        for seen in self._capture.end():
            try:
                self._seen.put_nowait(seen)
            except queue.Full as error:
                complain(logger, "the owner of the memory does not keep up with what the model attends to", error)

    def forget(self, requests: Iterable[str]) -> None:
        """These have ended."""
        self._capture.forget([*requests])

    def close(self) -> None:
        """Tell what is left, end the thread."""
        self._seen.put(None)
        self._thread.join()

    def _tell(self) -> None:
        while (seen := self._seen.get()) is not None:
            try:
                self._link.call(ATTENTION_PATH, {"texts": list(seen.texts), "rows": seen.rows.tolist()})
            except (httpx.HTTPError, OSError) as error:
                complain(logger, "the owner of the memory could not be told what the model attends to", error)
