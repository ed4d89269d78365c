"""What loads of a model server have saved and cost; where that is left to it, losses that last end them."""

from __future__ import annotations

import logging
import threading

from lightmem_engine.kv.choice import NetBenefit
from lightmem_engine.kv.counters import Counters
from lightmem_engine.kv.rates import Rates

logger = logging.getLogger(__name__)


class Balance:
    """Thread-safe. benefit: the account."""

    def __init__(self, rates: Rates, counters: Counters) -> None:
        self.benefit = NetBenefit()
        self._rates = rates
        self._counters = counters
        self._lock = threading.Lock()
        self._has_lost = False

    def loaded(self, num_tokens: int, waited: float) -> None:
        """A load has ended, with so many tokens after so many seconds.

        Load no more if that keeps costing more than it saves, where `Rates.may_give_up`; say so in any case.
        """
        saved = self._rates.compute_seconds(num_tokens)
        self._counters.count("waited_seconds", waited)
        self._counters.count("saved_seconds", saved)
        with self._lock:
            if self._has_lost or not self.benefit.note(saved, waited):
                return
            self._has_lost = True
        gave_up = self._rates.give_up()
        self._counters.count("losses", reason="off" if gave_up else "persist")
        then = ": none are loaded or kept any more" if gave_up else ""
        logger.warning("for ten minutes loads of KV caches have cost more than they saved%s", then)
