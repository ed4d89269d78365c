"""vLLM's schedulers, which let background requests stand still while somebody chats (`pausing`).

vLLM's scheduler is not a stable interface; what is used of it is in `compat` and its contract test. Runs in the
engine's process.
"""

from __future__ import annotations

from lightmem_engine.vllm_plugin import compat
from lightmem_engine.vllm_plugin.scheduling.pausing import Pausing

if compat.is_cpu():
    Pausing.slice_tokens = 128  # two to three steps of a chat; of 32, background work gets half of what 128 give it
SLICE_TOKENS = Pausing.slice_tokens


class PausingScheduler(Pausing, compat.symbol("Scheduler")):  # type: ignore[misc]
    """For engines that schedule between steps."""


class PausingAsyncScheduler(Pausing, compat.symbol("AsyncScheduler")):  # type: ignore[misc]
    """For engines that schedule ahead."""
