"""Encoder checkpoints on disk: where they are, and which exact weights they hold."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging as transformers_logging

from lightmem_engine.errors import BackendUnavailable, ConfigError

_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder in the transformers layout. `digest` is the SHA-256 over its weight files, in order of their names."""

    directory: Path
    label: str
    digest: str

    @property
    def name(self) -> str:
        """Identifies the weights, wherever they lie: the last part of the path or hub name, and the digest's head."""
        return f"{self.label}@{self.digest[:12]}"

    def read_json(self, file: str) -> dict[str, Any]:
        """One of the checkpoint's JSON files; empty if it has none of that name."""
        path = self.directory / file
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON: {error}") from error
        return content if isinstance(content, dict) else {}


def progress_on_terminals_only() -> None:
    """Keep the loading bars of transformers out of pipes and log files."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def locate(model: str) -> Checkpoint:
    """The checkpoint at a path, or of a hub name (downloaded once, then cached by the hub's client).

    Raises:
        ConfigError: there is no such folder or repository, or it holds no weights.
        BackendUnavailable: the hub cannot be reached and the checkpoint is not cached.
    """
    path = Path(model).expanduser()
    directory = path if path.is_dir() else _download(model)
    if not (directory / "config.json").is_file():
        raise ConfigError(f"{model}: no config.json in {directory}, so it is no transformers checkpoint")
    return Checkpoint(directory, path.resolve().name if path.is_dir() else path.name, _digest(directory))


def _download(model: str) -> Path:
    try:
        return Path(snapshot_download(model, allow_patterns=_WANTED))
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, HFValidationError) as error:
        raise ConfigError(f"{model!r} is neither a folder nor a model the hub lets us read") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise BackendUnavailable(f"{model!r} is no folder, and the model hub cannot be reached: {error}") from error


def _digest(directory: Path) -> str:
    files = next((found for pattern in _WEIGHTS if (found := sorted(directory.glob(pattern)))), [])
    if not files:
        raise ConfigError(f"no weights (safetensors or pytorch_model.bin) in {directory}")
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            if len(files) == 1:
                return hashlib.file_digest(stream, "sha256").hexdigest()
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()
