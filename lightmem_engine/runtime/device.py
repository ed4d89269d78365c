"""Which hardware runs the models, decided once and with its reason. The only probing of hardware."""

from __future__ import annotations

from dataclasses import dataclass

from lightmem_engine.config import DeviceConfig
from lightmem_engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Device:
    """A decision: `torch.device(kind)`, the encoders' dtype by name, and why."""

    kind: str
    dtype: str
    reason: str


def choose(config: DeviceConfig) -> Device:
    """Resolve `auto`. An explicit request that the machine cannot meet raises `ConfigError`."""
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
