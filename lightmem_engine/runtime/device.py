"""Which hardware runs the models, decided once and with its reason. The only probing of hardware."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from lightmem_engine.config import DeviceConfig
from lightmem_engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Device:
    """A decision: `torch.device(kind)`, the encoders' dtype by name, and why."""

    kind: str
    dtype: str
    reason: str


def share_cores() -> None:
    """Let idle OpenMP threads sleep rather than spin; call before torch is imported.

    The event loop, the stages and other processes use the same cores. Spinning cost a third of the encoder's speed
    beside one busy process and won 3 % without one (bench/LOG.md). A value that the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library can.

    Batches of ever new shapes leave glibc's heap full of holes; what that costs is in bench/LOG.md.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # absent in musl


def choose(config: DeviceConfig) -> Device:
    """Resolve `auto`. An explicit request that the machine cannot meet raises `ConfigError`."""
    share_cores()
    import torch

    if config.threads:
        torch.set_num_threads(config.threads)
    available = torch.cuda.is_available()
    if config.kind == "cuda" and not available:
        raise ConfigError("device.kind = cuda, but torch finds no CUDA device")
    if config.kind == "auto":
        kind = "cuda" if available else "cpu"
        reason = f"auto: {torch.cuda.get_device_name()}" if available else "auto: no CUDA device"
    else:
        kind, reason = config.kind, "set by device.kind"
    if config.dtype != "auto":
        return Device(kind, config.dtype, f"{reason}; {config.dtype} set by device.dtype")
    dtype = "float16" if kind == "cuda" else "float32"
    return Device(kind, dtype, f"{reason}; {dtype} is the default there")
