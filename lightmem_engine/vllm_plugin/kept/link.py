"""A connector's line to the process that owns the memory: what stands, what has ended, may this be kept.

What the owner has said holds for `LEASE_SECONDS` from the moment of asking; after that nothing stands any more, until
it answers again. So the owner, which waits as long for a connector that has gone silent, can promise that what it has
ended is found by nobody.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx

from lightmem_engine.kv.store import KVStore
from lightmem_engine.runtime.complain import complain
from lightmem_engine.wire_kv import BIND_PATH, FOLLOW_PATH, LEASE_SECONDS, POLL_SECONDS, STANDS_PATH

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class OwnerLink:
    """Calls on the owner's socket. Thread-safe; failures are `httpx.HTTPError` or `OSError`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def call(self, path: str, body: dict[str, Any], *, timeout: float = 10.0) -> dict[str, Any]:
        """One question."""
        if not self._socket.is_socket():  # httpcore would leave the socket open with which it failed to connect
            raise FileNotFoundError(f"nobody listens at {self._socket}")
        directory = os.open(self._socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # through the directory the name is short: a socket address holds about 100 characters
            transport = httpx.HTTPTransport(uds=f"/proc/self/fd/{directory}/{self._socket.name}", verify=False)
            with httpx.Client(transport=transport, base_url="http://engine", timeout=timeout) as client:
                answer = client.post(path, json=body)
                answer.raise_for_status()
                return dict(answer.json())
        finally:
            os.close(directory)

    def stands(self, owner: dict[str, Any]) -> bool:
        """Whether there still is what a cache would belong to; no, if nobody answers."""
        return self._says(STANDS_PATH, {"owner": owner})

    def bind(self, manifest: dict[str, Any]) -> bool:
        """Let a manifest stand whose chunks are on disk; False if it must not, or nobody answers."""
        return self._says(BIND_PATH, manifest)

    def _says(self, path: str, body: dict[str, Any]) -> bool:
        try:
            return bool(self.call(path, body)["stands"])
        except (httpx.HTTPError, OSError) as error:
            complain(logger, "the owner of the memory could not be asked about a KV cache", error)
            return False


def complainer(link: OwnerLink, reason: str) -> Follower:
    """Tells the owner why nothing is kept here, whenever it listens."""
    return Follower(
        link, allow=lambda _: None, forbid=lambda _: None, forget=lambda: None, report=lambda: {"off": reason}
    )


class Follower:
    """Hears from the owner, in a thread of its own, what stands and what has ended.

    allow, forbid: take manifests.   forget: nothing stands.   settled: returns once nothing is written any more of what
    has ended; called before the owner is told that it is known here.   report: what the owner is told each
    time, as `pipeline.kv_reports` has it.
    """

    def __init__(
        self,
        link: OwnerLink,
        *,
        allow: Callable[[Iterable[str]], None],
        forbid: Callable[[Iterable[str]], None],
        forget: Callable[[], None],
        settled: Callable[[], None] = lambda: None,
        report: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.id = uuid.uuid4().hex
        self._link = link
        self._allow = allow
        self._forbid = forbid
        self._forget = forget
        self._report = report
        self._settled = settled
        self._valid_until = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lightmem-kv-follow", daemon=True)
        self._thread.start()

    @classmethod
    def of(
        cls,
        store: KVStore,
        link: OwnerLink,
        *,
        settled: Callable[[], None] = lambda: None,
        report: Callable[[], dict[str, Any]] = dict,
    ) -> Follower:
        """One that a store follows."""
        allow, forbid, forget = store.allow, store.forbid, store.forbid_all
        return cls(link, allow=allow, forbid=forbid, forget=forget, settled=settled, report=report)

    @property
    def is_valid(self) -> bool:
        """Whether what was heard still holds."""
        return time.monotonic() < self._valid_until

    def close(self) -> None:
        """Stop listening; what was heard lapses."""
        self._closed.set()

    def _run(self) -> None:
        place: dict[str, Any] = {"epoch": "", "seq": 0}
        while not self._closed.is_set():
            asked = time.monotonic()
            try:
                news = self._link.call(
                    FOLLOW_PATH, {"follower": self.id, **place, "report": self._report()}, timeout=POLL_SECONDS + 5
                )
            except (httpx.HTTPError, OSError, ValueError):
                self._closed.wait(_RETRY_SECONDS)  # the owner is away: nothing holds once the lease is over
                continue
            if news["reset"]:
                self._forget()
            self._allow(news["standing"])
            self._forbid(news["ended"])
            if news["ended"] or news["reset"]:
                self._settled()
            self._valid_until = asked + LEASE_SECONDS
            place = {"epoch": news["epoch"], "seq": news["seq"]}
