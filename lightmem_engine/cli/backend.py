"""Who runs the model of `serve --model`: vLLM where there is one with CUDA, or transformers in this process."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass

BACKENDS = ("auto", "vllm", "transformers")


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision and its reason."""

    is_vllm: bool
    reason: str


def choose(argv: Sequence[str]) -> Choice:
    """Decide from what follows `serve`. Options that are not about this are left to whoever is chosen."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--backend", "--model", "--upstream"):
        parser.add_argument(name, nargs="?", default="")
    args, _ = parser.parse_known_args(list(argv))
    if args.backend not in (None, "", "auto"):
        return Choice(args.backend == "vllm", "set by --backend")
    if args.upstream:
        return Choice(False, "--upstream names the model server")
    if not args.model:
        return Choice(False, "no --model: the packaged model runs in this process")
    return here()


def here() -> Choice:
    """What a model would be run by on this machine."""
    if importlib.util.find_spec("vllm") is None:
        return Choice(False, "vLLM is not installed")
    if not _has_cuda():
        return Choice(False, "vLLM is installed, but there is no CUDA device; --backend vllm takes it all the same")
    return Choice(True, "vLLM and a CUDA device")


def _has_cuda() -> bool:
    """Without a context on the device, which would be in the way of processes that vLLM starts."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return torch.cuda.is_available()
