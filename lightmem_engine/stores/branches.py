"""Which stored conversation a request goes on with: the decision, over chains of digests. Pure.

A *path* is what a thread holds at present: its links that no later branch has superseded. A request that names its
session is compared with that session's threads, and an edit supersedes the tail that it replaces. A request without a
name may only continue what it repeats to the end, since two conversations may well begin with the same words.

Clients that send only a window of the conversation (the oldest messages cut off) are recognised in a named session:
their first messages are found further down the path. Clients that send no history at all are, too: a request of
nothing but user messages that agrees with nothing begins a new thread beside the others. Superseding them would forget
what they tell; not superseding them at worst remembers the first wording of an opening that was edited.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

ROOT = b""
MAX_WINDOW = 1000  # links at a path's end among which the opening of a cut history is looked for


@dataclass(frozen=True, slots=True)
class Link:
    """One message of a path. parent, digest: of the chain before it and up to it.   item: of the message alone.
    message: its place in the log, if it is remembered.   turn: the turn of its thread that wrote it.   cut: the text of
    a reply that did not come to its end."""

    id: int
    digest: bytes
    parent: bytes
    item: bytes
    role: str
    message: int | None
    injection: str | None
    turn: int
    cut: str | None = None


@dataclass(frozen=True, slots=True)
class Path:
    """The present branch of a thread."""

    session: str
    thread: int
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a request.

    path: continue this thread, of which the request shows `common` links from `offset` on; None: a new thread.
    replaced: the thread that a new one supersedes.
    """

    path: Path | None = None
    offset: int = 0
    common: int = 0
    replaced: Path | None = None

    @property
    def known(self) -> int:
        """Links of the path that stay whatever is appended."""
        return self.offset + self.common

    @property
    def tail(self) -> tuple[Link, ...]:
        """Links of the path behind what the request shows."""
        return self.path.links[self.known :] if self.path else ()


def chain(parent: bytes, item: bytes) -> bytes:
    """The digest of a chain with one more item."""
    return hashlib.sha256(parent + item).digest()


def chains(items: Sequence[bytes]) -> list[bytes]:
    """The digests of a request's chain, one per item."""
    digests, last = [], ROOT
    for item in items:
        last = chain(last, item)
        digests.append(last)
    return digests


def decide_named(items: Sequence[bytes], roles: Sequence[str], paths: Sequence[Path], newest: Path | None) -> Plan:
    """For a request with a session id.

    paths: threads of the session that begin as the request does, the most recent first.   newest: its newest thread.
    """
    has_reply = "assistant" in roles
    best = Plan()
    for path in paths:
        found = Plan(path, 0, common_length(items, path, 0))
        # A request of user messages only may come from a client without history, to whom saying the same again is a
        # new message; a retry repeats what was said last.
        if not has_reply and newest is not None and path.thread != newest.thread:
            continue
        if found.common > best.common or (found.common == best.common > 0 and len(found.tail) < len(best.tail)):
            best = found
    if best.common or not has_reply or newest is None:
        return best
    return _window(items, roles, newest) or Plan(replaced=newest)


def decide_unnamed(items: Sequence[bytes], roles: Sequence[str], texts: Sequence[str], paths: Sequence[Path]) -> Plan:
    """For a request without a session id: continue a path that it repeats to the end, or whose last reply alone is
    missing (a retry, a regenerated reply); otherwise begin anew.

    A reply that was cut off may have got farther here than at the client, or the other way round: it is repeated if
    one text begins with the other.

    paths: threads of server-named sessions that may fit, the most recent first.
    """
    best = Plan()
    for path in paths:
        found = Plan(path, 0, common_length(items, path, 0))
        is_continued = not found.tail
        is_resent = found.common == len(items) and [link.role for link in found.tail] == ["assistant"]
        is_cut = (
            len(found.tail) == 1
            and found.common < len(items)
            and _is_cut(found.tail[0], roles[found.common], texts[found.common])
        )
        if (is_continued or is_resent or is_cut) and found.common > best.common:
            best = found
    return best


def common_length(items: Sequence[bytes], path: Path, offset: int) -> int:
    """How many items the path holds in a row from `offset` on."""
    count = 0
    for item, link in zip(items, path.links[offset:], strict=False):
        if item != link.item:
            break
        count += 1
    return count


def _is_cut(link: Link, role: str, text: str) -> bool:
    is_reply = link.cut is not None and role == "assistant"
    return is_reply and (str(link.cut).startswith(text) or text.startswith(str(link.cut)))


def _window(items: Sequence[bytes], roles: Sequence[str], path: Path) -> Plan | None:
    """The place in the path where the request's opening stands. One that agrees on a reply, not only on words that
    anybody repeats; of several, the longest, and of those the latest."""
    best: Plan | None = None
    for offset in range(max(1, len(path.links) - MAX_WINDOW), len(path.links)):
        found = Plan(path, offset, common_length(items, path, offset))
        if "assistant" in roles[: found.common] and (best is None or found.common >= best.common):
            best = found
    return best
