"""What is kept across restarts: decided at the start by what was measured, and again when it turns out to be wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lightmem_engine.kv.rates import Rates

Mode = Literal["off", "warm", "persist"]
REFERENCE_TOKENS = 1024  # of the prompt that decides; computing is measured on a shorter one, which flatters it
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Choice:
    """A mode and, in words, why."""

    mode: Mode
    reason: str


def choose(
    configured: Literal["auto", "off", "warm", "persist"],
    rates: Rates,
    size: Callable[[int], int],
    *,
    context: int,
    can_warm: bool,
    room: int,
) -> Choice:
    """What pays here.

    size: bytes on disk of so many tokens.   context: the longest prompt.   can_warm: whether the process holds caches
    that a prompt can be read into again.   room: bytes that may still be written.
    """
    if configured != "auto":
        return Choice(configured, f"kv.mode = {configured}")
    num_tokens = min(REFERENCE_TOKENS, context)
    num_bytes = size(num_tokens)
    load, compute = rates.load_seconds(num_bytes) * 1000, rates.compute_seconds(num_tokens) * 1000
    measured = f"of {num_tokens} tokens loading takes {load:.3g} ms, computing {compute:.3g}"
    if not rates.pays(num_tokens, num_bytes):
        return instead(measured, can_warm=can_warm)
    if room < num_bytes:
        return instead(f"{measured}, but kv.min_free_bytes leaves no room on the volume", can_warm=can_warm)
    return Choice("persist", measured)


def instead(reason: str, *, can_warm: bool) -> Choice:
    """What is left where files do not pay, for this reason."""
    if can_warm:
        return Choice("warm", reason)
    return Choice("off", f"{reason}; and lm.cache_bytes = 0 leaves nothing to read prompts into")


class NetBenefit:
    """Seconds saved less seconds waited, as long as that is below nothing. Used from one thread.

    Old gains do not make up for losses of now: the balance begins anew whenever it is paid.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.debt = 0.0  # seconds
        self._since: float | None = None
        self._now = now

    def note(self, saved: float, waited: float) -> bool:
        """A load has ended; whether more has been waited than saved for `PATIENCE_SECONDS` by now."""
        self.debt = max(0.0, self.debt + waited - saved)
        if self.debt == 0.0:
            self._since = None
            return False
        if self._since is None:
            self._since = self._now()
        return self._now() - self._since >= PATIENCE_SECONDS
