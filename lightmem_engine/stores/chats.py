"""Conversations on disk: what a request continues, what is new in it, where its reply goes.

A turn is two transactions. `open_turn` stores the request's new messages with their links in the chain and what was
injected; `close_turn` adds the reply. Both decide under the write lock, so that retries and branches that arrive at
the same time cannot store anything twice, nor bring back what another one has superseded.
"""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from lightmem_engine.errors import Conflict
from lightmem_engine.stores import chat_rows, log
from lightmem_engine.stores.branches import ROOT, Link, Plan, chain, chains, common_length, decide_named, decide_unnamed
from lightmem_engine.stores.chat_keep import inject, keep_block, salt_of, session_block
from lightmem_engine.stores.chat_notes import fresh, newest, rewrite, standing
from lightmem_engine.stores.rows import select_in, to_ms
from lightmem_engine.stores.supersede import supersede
from lightmem_engine.types import (
    Block,
    ChatAsk,
    ChatItem,
    ChatOpened,
    ChatPlace,
    ChatView,
    Hit,
    Injection,
    Message,
    Scope,
    TurnDraft,
)

__all__ = ["Chats", "close_turn", "forget_user", "look", "open_turn", "rewrite"]

Drafts = Callable[[Sequence[Message], datetime | None], list[TurnDraft]]
KEY_RETENTION_MS = 24 * 3600 * 1000  # how long an idempotency key is known
_USER = "tenant = ? AND user = ?"


def look(connection: sqlite3.Connection, scope: Scope, ask: ChatAsk, now: datetime) -> ChatView:
    """What is known of a request before anything is stored. Raises `Conflict` as `open_turn` does."""
    plan, _ = _plan(connection, scope, ask)
    session = plan.path.session if plan.path else ask.session
    row = connection.execute(f"SELECT salt, block FROM chat_user WHERE {_USER}", (scope.tenant, scope.user)).fetchone()
    salt = row[0].hex() if row else None
    block = None if session is None else session_block(connection, scope, session)
    if block is not None:
        return ChatView(_injections(plan), block, salt=salt)
    last = chat_rows.block_of(row[1]) if row and row[1] else Block()
    kept = standing(connection, scope, last.notes)
    base = last if kept == last.notes else Block(kept, last.epoch + 1, last.seen_ms)
    return ChatView(_injections(plan), None, base, tuple(fresh(connection, scope, base, now)), salt)


def open_turn(
    connection: sqlite3.Connection,
    scope: Scope,
    ask: ChatAsk,
    drafts: Drafts,
    now: datetime,
    *,
    share_salt: bool = False,
) -> ChatOpened:
    """Store what is new in a request. drafts: messages and the session's last event time -> what the log keeps.

    Raises `Conflict` if the key of the request names another one, and what `log.append` raises.
    """
    plan, is_repeat = _plan(connection, scope, ask)
    new = () if is_repeat else ask.items[plan.common :]
    session = plan.path.session if plan.path else ask.session or uuid.uuid4().hex
    salt = salt_of(connection, scope, share=share_salt)
    connection.execute(
        "INSERT OR IGNORE INTO chat_session (tenant, user, session, is_named) VALUES (?, ?, ?, ?)",
        (scope.tenant, scope.user, session, ask.session is not None),
    )
    if plan.replaced is not None:
        _supersede(connection, scope, plan.replaced.thread, plan.replaced.links, now)
    thread = plan.path.thread if plan.path else _new_thread(connection, scope, session)
    order = _next_turn(connection, thread)
    links = [] if plan.path is None else list(plan.path.links[: plan.known])
    if new and plan.tail:
        _supersede(connection, scope, thread, plan.tail, now)
    is_new = _append(connection, scope, (session, thread, order), links, new, drafts, now)
    injections = dict(_injections(plan))
    last = len(ask.items) - 1
    is_gone = is_repeat and plan.common < len(ask.items)  # a branch has superseded it since
    asks = bool(ask.items) and ask.items[-1].role == "user"
    if ask.injection is not None and asks and last not in injections and not is_gone:
        injections[last] = inject(connection, scope, links[-1].id, ask.injection)
    place = ChatPlace(
        session=session,
        thread=thread,
        link=links[-1].id if links else 0,
        tail=frozenset() if new else frozenset(link.id for link in plan.tail),
        order=order,
        takes_reply=not is_repeat or not plan.tail or [link.role for link in plan.tail] == ["assistant"],
    )
    if is_gone:
        place = ChatPlace(session, thread, 0, frozenset(), order, takes_reply=False)
    elif ask.key is not None:
        _keep_key(connection, scope, ask, place, now)
    block = keep_block(connection, scope, session, ask)
    return ChatOpened(place, ChatView(injections, block, salt=salt), is_new)


def close_turn(
    connection: sqlite3.Connection, scope: Scope, place: ChatPlace, reply: ChatItem, drafts: Drafts, now: datetime
) -> tuple[bool, bool]:
    """Put the reply in its place, instead of the one that was there when the turn began or that an earlier turn has put
    there since. Returns whether it is on disk, and whether it brought a message to remember.

    Nothing is stored where the conversation has gone on otherwise.
    """
    path = chat_rows.load_path(connection, scope, place.thread)
    ids = [0] + [link.id for link in path.links] if path else []
    if path is None or not place.takes_reply or place.link not in ids:
        return False, False
    at = ids.index(place.link)
    tail = path.links[at:]
    late = [link for link in tail if link.id not in place.tail]
    if late and not (late == list(tail) and len(late) == 1 and _is_earlier_reply(late[0], place)):
        return False, False
    if len(tail) == 1 and tail[0].item == reply.digest:
        connection.execute("UPDATE chat_link SET turn = ? WHERE id = ?", (place.order, tail[0].id))
        return True, False
    if tail:
        _supersede(connection, scope, place.thread, tail, now)
    where = (place.session, place.thread, place.order)
    return True, _append(connection, scope, where, list(path.links[:at]), [reply], drafts, now)


def forget_user(connection: sqlite3.Connection, scope: Scope) -> None:
    """Delete all conversations of a user, with blocks, injected texts, keys and the salt."""
    for table in ("chat_key", "chat_thread", "chat_session", "chat_user"):
        connection.execute(f"DELETE FROM {table} WHERE {_USER}", (scope.tenant, scope.user))


class Chats:
    """The functions of this module over a database. write, read: the database's; a read sees one commit."""

    def __init__(
        self,
        write: Callable[[Callable[..., Any]], Awaitable[Any]],
        read: Callable[[Callable[..., Any]], Awaitable[Any]],
        *,
        share_salt: bool = False,
    ) -> None:
        self._share_salt = share_salt
        self._write = write
        self._read = read

    async def look(self, scope: Scope, ask: ChatAsk, now: datetime) -> ChatView:
        """See `look`."""
        view: ChatView = await self._read(lambda connection: look(connection, scope, ask, now))
        return view

    async def newest(self, scope: Scope, now: datetime) -> list[Hit]:
        """What a block may be made of; see `chat_notes.newest`."""
        hits: list[Hit] = await self._read(lambda connection: newest(connection, scope, now))
        return hits

    async def open(self, scope: Scope, ask: ChatAsk, drafts: Drafts, now: datetime) -> ChatOpened:
        """See `open_turn`."""
        opened: ChatOpened = await self._write(
            lambda connection: open_turn(connection, scope, ask, drafts, now, share_salt=self._share_salt)
        )
        return opened

    async def close(
        self, scope: Scope, place: ChatPlace, reply: ChatItem, drafts: Drafts, now: datetime
    ) -> tuple[bool, bool]:
        """See `close_turn`."""
        closed: tuple[bool, bool] = await self._write(
            lambda connection: close_turn(connection, scope, place, reply, drafts, now)
        )
        return closed

    async def salt(self, scope: Scope) -> str:
        """See `chat_keep.salt_of`."""
        salt: str = await self._write(lambda connection: salt_of(connection, scope, share=self._share_salt))
        return salt


def _plan(connection: sqlite3.Connection, scope: Scope, ask: ChatAsk) -> tuple[Plan, bool]:
    """Which conversation the request continues, and whether its key says that it has been here before."""
    items = [item.digest for item in ask.items]
    if ask.key is not None:
        sql = f"SELECT request, thread, link FROM chat_key WHERE {_USER} AND key = ?"
        row = connection.execute(sql, (scope.tenant, scope.user, ask.key)).fetchone()
        if row is not None:
            if row[0] != _fingerprint(ask):
                raise Conflict(f"the idempotency key {ask.key!r} was used for another request")
            return _repeated(connection, scope, items, row[1], row[2]), True
    if ask.session is not None:
        root = chain(ROOT, items[0]) if items else ROOT
        paths = chat_rows.threads_from(connection, scope, ask.session, root)
        last = chat_rows.newest_thread(connection, scope, ask.session)
        return decide_named(items, [item.role for item in ask.items], paths, last), False
    paths = chat_rows.threads_to(connection, scope, chains(items))
    texts = [item.text for item in ask.items]
    return decide_unnamed(items, [item.role for item in ask.items], texts, paths), False


def _repeated(connection: sqlite3.Connection, scope: Scope, items: list[bytes], thread: int, link: int) -> Plan:
    """Where a request stands that was stored before; less than all of it if a branch has superseded it since."""
    path = chat_rows.load_path(connection, scope, thread)
    if path is None:
        return Plan()
    ids = [one.id for one in path.links]
    if link in ids:
        return Plan(path, ids.index(link) + 1 - len(items), len(items))
    return Plan(path, 0, min(common_length(items, path, 0), max(0, len(items) - 1)))


def _append(
    connection: sqlite3.Connection,
    scope: Scope,
    where: tuple[str, int, int],
    links: list[Link],
    items: Sequence[ChatItem],
    drafts: Drafts,
    now: datetime,
) -> bool:
    """Add items behind `links`, which grows; their messages go to the log. Says whether there were any."""
    session, thread, turn = where
    messages = [item.message for item in items if item.message is not None]
    ids: list[str] = []
    if messages:
        ids, _ = log.append(connection, scope, session, lambda last: drafts(messages, last), now)
    sql = f"SELECT id, seq FROM message WHERE {_USER} AND id IN ({{in}})"
    places = dict(select_in(connection, sql, ids, scope.tenant, scope.user))
    seqs = iter([places[id] for id in ids])
    for item in items:
        parent = links[-1].digest if links else ROOT
        digest = chain(parent, item.digest)
        seq = next(seqs) if item.message is not None else None
        row = (len(links), digest, parent, item.digest, item.role)
        is_partial = item.message is not None and bool(item.message.metadata.get("partial"))
        id = chat_rows.add_link(connection, thread, row, seq, turn, is_partial=is_partial)
        links.append(Link(id, digest, parent, item.digest, item.role, seq, None, turn))
    chat_rows.mark_ends(connection, thread)
    return bool(messages)


def _supersede(connection: sqlite3.Connection, scope: Scope, thread: int, links: Sequence[Link], now: datetime) -> None:
    connection.executemany(
        "UPDATE chat_link SET superseded_ms = ? WHERE id = ?", [(to_ms(now), link.id) for link in links]
    )
    supersede(connection, scope, [link.message for link in links if link.message is not None], now)
    chat_rows.mark_ends(connection, thread)


def _injections(plan: Plan) -> dict[int, Injection]:
    """What stands in front of the request's messages, by their place."""
    shown = plan.path.links[plan.offset : plan.known] if plan.path else ()
    return {i: chat_rows.injection_of(link.injection) for i, link in enumerate(shown) if link.injection is not None}


def _new_thread(connection: sqlite3.Connection, scope: Scope, session: str) -> int:
    sql = "INSERT INTO chat_thread (tenant, user, session) VALUES (?, ?, ?)"
    thread = connection.execute(sql, (scope.tenant, scope.user, session)).lastrowid
    assert thread is not None
    return thread


def _next_turn(connection: sqlite3.Connection, thread: int) -> int:
    sql = "UPDATE chat_thread SET num_turns = num_turns + 1 WHERE id = ? RETURNING num_turns"
    return int(connection.execute(sql, (thread,)).fetchone()[0])


def _keep_key(connection: sqlite3.Connection, scope: Scope, ask: ChatAsk, place: ChatPlace, now: datetime) -> None:
    values = (scope.tenant, scope.user, ask.key, _fingerprint(ask), place.thread, place.link, to_ms(now))
    connection.execute("INSERT OR REPLACE INTO chat_key VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    connection.execute("DELETE FROM chat_key WHERE used_ms < ?", (to_ms(now) - KEY_RETENTION_MS,))


def _fingerprint(ask: ChatAsk) -> bytes:
    items = b"".join(item.digest for item in ask.items)
    return hashlib.sha256(items + (ask.session or "").encode("utf-8", "surrogatepass")).digest()


def _is_earlier_reply(link: Link, place: ChatPlace) -> bool:
    return link.role == "assistant" and link.turn < place.order
