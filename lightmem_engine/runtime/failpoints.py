"""Named places where a crash test may kill the process.

A spec is `name:n`: the n-th pass of that place ends the process as `kill -9` would. Without a spec a pass costs one
comparison.
"""

from __future__ import annotations

import os
import signal
import threading

from lightmem_engine.errors import ConfigError

NAMES = (
    *("log.commit", "stage.commit", "index.apply", "ack", "sleep.answer", "sleep.commit"),
    *("kv.reserve", "kv.write", "kv.rename", "kv.renamed", "kv.commit", "kv.evict", "kv.recover", "kv.bind"),
)


class Failpoints:
    """Counts the passes of one named place and kills the process at the chosen one."""

    def __init__(self, spec: str = "") -> None:
        name, _, count = spec.partition(":")
        if spec and (name not in NAMES or not (count or "1").isdigit() or int(count or "1") < 1):
            raise ConfigError(f"runtime.failpoint: {spec!r} is not name:n with a name of {', '.join(NAMES)}")
        self._name = name
        self._left = int(count or "1")
        self._lock = threading.Lock()

    def reach(self, name: str) -> None:
        """Pass the place `name`; thread-safe."""
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
