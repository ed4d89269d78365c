"""Conversations on disk under random use: nothing lost, nothing twice, nothing back from a branch that is gone."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lightmem_engine.errors import Conflict
from lightmem_engine.stores.chats import close_turn, forget_user, open_turn
from lightmem_engine.stores.schema import migrate
from lightmem_engine.types import ChatAsk, ChatItem, ChatOpened, Message, Scope, TurnDraft

NOW = datetime(2024, 1, 1, tzinfo=UTC)
SCOPES = [Scope("ann"), Scope("ann", tenant="other")]
WHO = st.integers(0, 3 * len(SCOPES) - 1)  # which client: per user one that names its sessions and two that do not
TEXT = st.sampled_from("ab")  # few words, so that conversations resemble each other
Said = tuple[str, str]  # role, text
State = dict[int, tuple[Said, ...]]  # what each thread holds


def item(role: str, text: str) -> ChatItem:
    return ChatItem(role, text, hashlib.sha256(f"{role}\0{text}".encode()).digest(), Message(role, text))


def drafts(messages: Sequence[Message], last: datetime | None) -> list[TurnDraft]:
    found: list[TurnDraft] = []
    for message in messages:
        last = NOW if last is None else last + timedelta(milliseconds=1)
        id = hashlib.sha256(repr((message.content, last, len(found), _next())).encode()).hexdigest()
        role = "user" if message.role == "user" else "assistant"
        found.append(TurnDraft(id, role, message.role, message.content, last))  # type: ignore[arg-type]
    return found


_count = 0


def _next() -> int:
    global _count
    _count += 1
    return _count


@dataclass
class Client:
    """A conversation as somebody sees it who resends it whole. key: how its next request is called, if at all."""

    scope: Scope
    session: str | None
    history: list[Said] = field(default_factory=list)


@dataclass
class Turn:
    """A request under way."""

    client: Client
    request: tuple[Said, ...]
    opened: ChatOpened


class Conversations(RuleBasedStateMachine):
    """Clients of several users talk, edit, regenerate, retry and break off in any order. After every step the whole
    store is compared with what it was before."""

    @initialize()
    def start(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("PRAGMA foreign_keys = ON")
        migrate(self.connection)
        self.turns: list[Turn] = []
        self.superseded: set[int] = set()
        self.num_named = 0
        self.keys: dict[tuple[Scope, str], tuple[str | None, tuple[Said, ...]]] = {}
        self.clients = [self._client(scope, is_named) for scope in SCOPES for is_named in (True, False, False)]

    def teardown(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()

    # what clients do

    @rule(who=WHO, text=TEXT)
    def ask(self, who: int, text: str) -> None:
        """A new question; the last one, if it still waits, is asked again instead."""
        client = self.clients[who]
        if not client.history or client.history[-1][0] != "user":
            client.history.append(("user", text))
        self._open(client)

    @rule(who=WHO, text=TEXT, reply=TEXT)
    def converse(self, who: int, text: str, reply: str) -> None:
        """A whole turn."""
        self.ask(who, text)
        if self.turns and self.turns[-1].client is self.clients[who]:
            self._reply(self.turns.pop(), reply)

    @rule(who=WHO, at=st.integers(0, 30), text=TEXT)
    def edit(self, who: int, at: int, text: str) -> None:
        """Another wording of an earlier question; of the first one only where the client names no session."""
        client = self.clients[who]
        places = [i for i, (role, _) in enumerate(client.history) if role == "user" and (i or not client.session)]
        if places:
            del client.history[places[at % len(places)] :]
        self.ask(who, text)

    @rule(who=WHO, at=st.integers(0, 30), reply=TEXT)
    def regenerate(self, who: int, at: int, reply: str) -> None:
        """Another reply, to the last question or to an earlier one."""
        client = self.clients[who]
        places = [i for i, (role, _) in enumerate(client.history) if role == "assistant"]
        if places:
            del client.history[places[-1 - at % min(3, len(places))] :]
            self._open(client)
            self._reply(self.turns.pop(), reply)

    @rule(who=WHO, key=st.sampled_from(["k1", "k2", "k3"]), text=TEXT)
    def use_key(self, who: int, key: str, text: str) -> None:
        """A request by name, new or for the second time, or the name of another one."""
        client = self.clients[who]
        if not client.history or client.history[-1][0] != "user":
            client.history.append(("user", text))
        self._open(client, key)

    @rule(which=st.integers(0, 30), text=TEXT)
    def reply(self, which: int, text: str) -> None:
        """The reply to some turn that is open, be it long overtaken."""
        if self.turns:
            self._reply(self.turns.pop(which % len(self.turns)), text)

    @rule(who=WHO)
    def begin(self, who: int) -> None:
        """A conversation of its own."""
        old = self.clients[who]
        self.clients[who] = self._client(old.scope, old.session is not None)

    def _client(self, scope: Scope, is_named: bool) -> Client:
        self.num_named += 1
        return Client(scope, f"s{self.num_named}" if is_named else None)

    def _reply(self, turn: Turn, text: str) -> None:
        client, thread = turn.client, turn.opened.place.thread
        before = self._state()
        reply = item("assistant", text)
        stored, _ = close_turn(self.connection, client.scope, turn.opened.place, reply, drafts, NOW)
        after = self._state()
        assert _without(before, thread) == _without(after, thread)
        if stored:
            assert turn.opened.place.takes_reply
            assert after[thread] == (*turn.request, ("assistant", text))
        else:
            assert after == before
        if turn.request == tuple(client.history):
            client.history.append(("assistant", text))
            if client.session and stored:
                assert self._session(client) == client.history

    @rule(scope=st.sampled_from(SCOPES), is_due=st.integers(0, 4))
    def forget(self, scope: Scope, is_due: int) -> None:
        """Now and then."""
        if is_due:
            return
        before = self._state()
        own = self._threads(scope)
        forget_user(self.connection, scope)
        self.connection.execute("UPDATE message SET superseded_ms = 1 WHERE tenant = ? AND user = ?", _key(scope))
        assert self._state() == {thread: path for thread, path in before.items() if thread not in own}
        self.turns = [turn for turn in self.turns if turn.client.scope != scope or self._is_gone(turn)]
        self.clients = [
            self._client(scope, client.session is not None) if client.scope == scope else client
            for client in self.clients
        ]
        self.keys = {key: request for key, request in self.keys.items() if key[0] != scope}

    # what must hold

    @invariant()
    def nothing_comes_back(self) -> None:
        rows = self.connection.execute("SELECT seq FROM message WHERE superseded_ms IS NOT NULL")
        now = {seq for (seq,) in rows}
        assert self.superseded <= now
        self.superseded = now

    @invariant()
    def messages_and_links_agree(self) -> None:
        """A message is superseded exactly if its link is, and belongs to one link."""
        rows = self.connection.execute(
            "SELECT m.superseded_ms IS NULL, count(l.id), sum(l.superseded_ms IS NULL) FROM message m "
            "JOIN chat_link l ON l.message = m.seq GROUP BY m.seq"
        ).fetchall()
        assert all(count == 1 and is_active == is_linked for is_active, count, is_linked in rows)

    @invariant()
    def chains_are_whole(self) -> None:
        """Depths without gaps, each link's parent the link before it, and the ends of each thread as noted."""
        for thread, root, tip, before in self.connection.execute("SELECT id, root, tip, before FROM chat_thread"):
            rows = self.connection.execute(
                "SELECT depth, digest, parent FROM chat_link WHERE thread = ? AND superseded_ms IS NULL ORDER BY depth",
                (thread,),
            ).fetchall()
            assert [depth for depth, _, _ in rows] == list(range(len(rows)))
            digests = [b"", *(digest for _, digest, _ in rows)]
            assert [parent for _, _, parent in rows] == digests[:-1]
            ends = (digests[1], digests[-1], digests[-2] or None) if rows else (None, None, None)
            assert (root, tip, before) == ends

    def _open(self, client: Client, key: str | None = None) -> None:
        request = tuple(client.history)
        ask = ChatAsk(tuple(item(*said) for said in request), client.session, key)
        before, own = self._state(), self._threads(client.scope)
        known = None if key is None else self.keys.get((client.scope, key))
        if known is not None and known != (client.session, request):
            with pytest.raises(Conflict):
                open_turn(self.connection, client.scope, ask, drafts, NOW)
            return
        opened = open_turn(self.connection, client.scope, ask, drafts, NOW)
        after, thread = self._state(), opened.place.thread
        changed = {one for one in after if after[one] != before.get(one)}
        if known is not None:
            assert {one: path for one, path in after.items() if path} == {one: p for one, p in before.items() if p}
        else:
            assert after[thread][: len(request)] == request, "all of the request is there"
            assert changed <= {thread}, "no other conversation is touched"
            assert thread in own or thread not in before, "nor anybody else's"
            old = before.get(thread, ())
            if client.session is None:
                assert old in (after[thread], request[: len(old)]), "without an id nothing is superseded"
                assert thread in before or not self._continues(before, client.scope, request)
            if old[: len(request)] == request:
                assert after[thread] == old, "what is there already is not stored again"
            if client.session and self._is_alone(client):
                assert self._session(client)[: len(request)] == list(request)
        if key is not None:
            self.keys[client.scope, key] = (client.session, request)
        self.turns.append(Turn(client, request, opened))

    def _is_gone(self, turn: Turn) -> bool:
        """Its reply comes too late, and is not kept."""
        reply = item("assistant", "too late")
        assert not close_turn(self.connection, turn.client.scope, turn.opened.place, reply, drafts, NOW)[0]
        return False

    def _state(self) -> State:
        rows = self.connection.execute(
            "SELECT t.id, l.role, m.content FROM chat_thread t LEFT JOIN chat_link l "
            "ON l.thread = t.id AND l.superseded_ms IS NULL LEFT JOIN message m ON m.seq = l.message "
            "ORDER BY t.id, l.depth"
        )
        state: State = {}
        for thread, role, text in rows:
            state[thread] = state.get(thread, ()) + (((role, text),) if role else ())
        return state

    def _threads(self, scope: Scope) -> set[int]:
        rows = self.connection.execute("SELECT id FROM chat_thread WHERE tenant = ? AND user = ?", _key(scope))
        return {thread for (thread,) in rows}

    def _continues(self, state: State, scope: Scope, request: tuple[Said, ...]) -> bool:
        """Whether the request repeats a conversation without a name to its last reply, or but for its last reply."""
        named = "SELECT id FROM chat_thread WHERE session LIKE 's%'"
        threads = self._threads(scope) - {thread for (thread,) in self.connection.execute(named)}
        paths = [state[thread] for thread in threads if state.get(thread)]
        return any(path in (request[: len(path)], (*request, path[-1])) for path in paths if path[-1][0] == "assistant")

    def _session(self, client: Client) -> list[Said]:
        rows = self.connection.execute(
            "SELECT role, content FROM message WHERE tenant = ? AND user = ? AND session = ? AND superseded_ms IS NULL "
            "ORDER BY seq",
            (*_key(client.scope), client.session),
        )
        return [(role, text) for role, text in rows]

    def _is_alone(self, client: Client) -> bool:
        rows = self.connection.execute(
            "SELECT count(*) FROM chat_thread WHERE tenant = ? AND user = ? AND session = ? AND tip IS NOT NULL",
            (*_key(client.scope), client.session),
        )
        return bool(rows.fetchone()[0] == 1)


def _key(scope: Scope) -> tuple[str, str]:
    return scope.tenant, scope.user


def _without(state: State, thread: int) -> State:
    return {one: path for one, path in state.items() if one != thread}


TestConversations = Conversations.TestCase
TestConversations.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
