"""Loading a Qwen checkpoint: what it must be, and which tokens end its answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from lightmem_engine.errors import ConfigError
from lightmem_engine.prompts import v1


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
def quiet_in_a_pipe() -> Iterator[None]:
    """A progress bar is for a terminal."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    if was_enabled and not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids after which an answer is complete."""
    configured = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    ends.add(tokenizer.get_added_vocab().get("<|im_end|>"))
    return frozenset(int(end) for end in ends if end is not None)
