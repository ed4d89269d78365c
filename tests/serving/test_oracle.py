"""A thousand random requests from many users of five tenants, compared with a plain model of what must be remembered.

Every message, every reply and every change of an entry carries a word that nothing else has. The model says per user
which words are active; the server must show those and no others: in searches, in lists, in exports and in prompts.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.support.server import STUB_MODELS, Server
from tests.support.upstream import DONE, ScriptedUpstream, Seen, Step, chunk, chunked, completion, event, whole

NUM_TENANTS, NUM_NAMES = 5, 10
EXAMPLES, STEPS = 8, 80
SETTINGS = (
    *STUB_MODELS,
    *("extract.mode=extractive", "chat.budget_ms=60000"),
    # Stages that work all the time, so that requests meet messages in every state.
    *("short_term.idle_seconds=0.05", "short_term.threshold=30", "segment.lookahead=1"),
)
WORD = re.compile(r"w\d{5}x")
Json = dict[str, Any]


@dataclass(eq=False)
class Copy:
    """One stored message. content: as it was told.   word: by which it is found now.   id: the caller's, if any."""

    content: str
    word: str
    id: str | None = None
    state: str = "active"  # active, superseded, deleted


@dataclass(eq=False)
class Talk:
    """A conversation as its client shows it."""

    session: str | None
    said: list[tuple[Json, Copy]] = field(default_factory=list)
    keyed: list[tuple[str, list[Json]]] = field(default_factory=list)  # requests that were sent with a key

    def messages(self, end: int | None = None) -> list[Json]:
        return [message for message, _ in self.said[:end]]


@dataclass(eq=False)
class Person:
    """What the model knows of one user."""

    tenant: int
    user: str
    copies: list[Copy] = field(default_factory=list)
    talks: list[Talk] = field(default_factory=list)

    def words(self, *states: str) -> Counter[str]:
        return Counter(copy.word for copy in self.copies if copy.state in states)

    def take_back(self, said: Sequence[tuple[Json, Copy]]) -> None:
        for _, copy in said:
            if copy.state == "active":
                copy.state = "superseded"


class World:
    """The server, the model server behind it, and how to talk to them."""

    def __init__(self, server: Server, upstream: ScriptedUpstream) -> None:
        self.server = server
        self.upstream = upstream
        self.http = httpx.Client(base_url=server.url, timeout=60)
        self.num_requests = 0
        self.words = (f"w{number:05d}x" for number in itertools.count())
        upstream.answer = self._answer

    def call(self, method: str, path: str, person: Person, *, admin: bool = False, **options: Any) -> httpx.Response:
        self.num_requests += 1
        key = f"sk-{'admin' if admin else 'plain'}-{person.tenant}"
        headers = {"authorization": f"Bearer {key}", **options.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **options)

    def memory(self, method: str, route: str, person: Person, **options: Any) -> Any:
        if method == "POST":
            options["json"] = {"user_id": person.user, **options.get("json", {})}
        elif not route.startswith("users"):
            options["params"] = {"user_id": person.user, **options.get("params", {})}
        answer = self.call(method, f"/v1/memory/{route}", person, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def search(self, person: Person, word: str) -> bool:
        """Whether a user finds a word."""
        hits = self.memory("POST", "search", person, json={"query": word, "top_k": 50})["hits"]
        assert all(word not in hit["text"] or hit["state"] in ("active", "pending") for hit in hits)
        return any(word in hit["text"] for hit in hits)

    def export(self, person: Person) -> list[Json]:
        params = {"user_id": person.user}
        answer = self.call("GET", "/v1/memory/export", person, admin=True, params=params)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()][1:]

    def _answer(self, seen: Seen) -> Sequence[Step]:
        """Every reply says something that nobody has said before."""
        words = f"Noted as {next(self.words)}."
        if not seen.json().get("stream"):
            return whole(completion(words))
        half = len(words) // 2
        deltas: list[tuple[Json, str | None]] = [
            ({"content": words[:half]}, None),
            ({"content": words[half:]}, None),
            ({}, "stop"),
        ]
        return chunked([*(event(chunk(delta, finish)) for delta, finish in deltas), DONE])


WORLD: list[World] = []  # hypothesis makes the machines itself
EXAMPLE = itertools.count()
# Most requests come from few users, so that their memories grow; namesakes in all tenants among them.
WHO = st.integers(0, 99).map(lambda n: n % 6 if n < 80 else n % (NUM_TENANTS * NUM_NAMES))
PICK = st.integers(0, 10**6)


class Requests(RuleBasedStateMachine):
    """One rule per kind of request; each checks its answer against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.world = WORLD[0]
        self.example = next(EXAMPLE)
        self.people: dict[int, Person] = {}
        self.erased: list[tuple[Person, set[str]]] = []

    def person(self, number: int) -> Person:
        if number not in self.people:
            name = f"user{number // NUM_TENANTS}-{self.example}"
            self.people[number] = Person(number % NUM_TENANTS, name)
        return self.people[number]

    def ask(self, person: Person, talk: Talk, messages: list[Json], *, stream: bool, key: str | None = None) -> Json:
        """One chat request, its prompt checked: nothing of anybody else, nothing that was deleted."""
        headers = {"x-memory-user-id": person.user}
        headers |= {"x-memory-session-id": talk.session} if talk.session else {}
        headers |= {"idempotency-key": key} if key else {}
        body = {"messages": messages, "stream": stream}
        answer = self.world.call("POST", "/v1/chat/completions", person, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        last = WORD.findall(messages[-1]["content"])[0]
        seen = next(one for one in reversed(self.world.upstream.seen) if last.encode() in one.body)
        prompt = set(WORD.findall(seen.body.decode()))
        own = set(person.words("active", "superseded")) | set(WORD.findall(json.dumps(messages)))
        assert prompt <= own, f"{prompt - own} in a prompt of {person.user}"
        text, memory = _read(answer.text) if stream else _reply(answer.json())
        assert memory["degraded"] is None, memory
        return {"text": text, "stored": memory["stored"]}

    def told(self, person: Person, content: str, id: str | None = None) -> Copy:
        copy = Copy(content, WORD.findall(content)[0], id)
        person.copies.append(copy)
        return copy

    def say(self, person: Person, talk: Talk, content: str, *, stream: bool, key: str | None = None) -> None:
        message = {"role": "user", "content": content}
        messages = [*talk.messages(), message]
        reply = self.ask(person, talk, messages, stream=stream, key=key)
        assert reply["stored"] is True
        talk.said.append((message, self.told(person, content)))
        self.reply(person, talk, reply["text"])
        if key is not None:
            talk.keyed.append((key, messages))

    def reply(self, person: Person, talk: Talk, text: str) -> None:
        talk.said.append(({"role": "assistant", "content": text}, self.told(person, text)))

    def fact(self) -> str:
        return f"My favourite thing is called {next(self.world.words)}."

    def talk(self, person: Person, pick: int, *, long: int = 0) -> Talk | None:
        """One of the conversations with so many turns."""
        found = [talk for talk in person.talks if len(talk.said) >= 2 * long]
        return found[pick % len(found)] if found else None

    @rule(who=WHO, pick=PICK, stream=st.booleans(), named=st.booleans(), is_new=st.booleans())
    def chat(self, who: int, pick: int, stream: bool, named: bool, is_new: bool) -> None:
        person = self.person(who)
        talk = None if is_new else self.talk(person, pick)
        if talk is None:
            talk = Talk(f"s{len(person.talks)}-{pick}" if named else None)
            person.talks.append(talk)
        self.say(person, talk, self.fact(), stream=stream)

    @rule(who=WHO, pick=PICK, stream=st.booleans())
    def regenerate(self, who: int, pick: int, stream: bool) -> None:
        person = self.person(who)
        talk = self.talk(person, pick, long=1)
        if talk is None:
            return
        reply = self.ask(person, talk, talk.messages(-1), stream=stream)
        assert reply["stored"] is True
        person.take_back([talk.said.pop()])
        self.reply(person, talk, reply["text"])

    @rule(who=WHO, pick=PICK, stream=st.booleans())
    def edit(self, who: int, pick: int, stream: bool) -> None:
        """With a session the old branch goes; without one it is a conversation of its own, told from the start."""
        person = self.person(who)
        talk = self.talk(person, pick, long=2)
        if talk is None:
            return
        place = 2 * (1 + pick % (len(talk.said) // 2 - 1))
        if talk.session is None:
            before, talk = talk.messages(place), Talk(None)
            person.talks.append(talk)
            self.say_again(person, talk, before, stream)
        else:
            person.take_back(talk.said[place:])
            del talk.said[place:]
            self.say(person, talk, self.fact(), stream=stream)

    def say_again(self, person: Person, talk: Talk, before: list[Json], stream: bool) -> None:
        message = {"role": "user", "content": self.fact()}
        reply = self.ask(person, talk, [*before, message], stream=stream)
        assert reply["stored"] is True
        talk.said = [(one, self.told(person, one["content"])) for one in [*before, message]]
        self.reply(person, talk, reply["text"])

    @rule(who=WHO, pick=PICK, stream=st.booleans())
    def retry(self, who: int, pick: int, stream: bool) -> None:
        """With an idempotency key: at once, when only the reply is new; with another message, nothing is stored."""
        person = self.person(who)
        talk = self.talk(person, pick)
        if talk is None:
            talk = Talk(None)
            person.talks.append(talk)
        key = f"k{next(self.world.words)}"
        self.say(person, talk, self.fact(), stream=stream, key=key)
        reply = self.ask(person, talk, talk.messages(-1), stream=stream, key=key)
        person.take_back([talk.said.pop()])
        self.reply(person, talk, reply["text"])
        body = {"messages": [{"role": "user", "content": self.fact()}]}
        headers = {"x-memory-user-id": person.user, "idempotency-key": key}
        answer = self.world.call("POST", "/v1/chat/completions", person, json=body, headers=headers)
        memory = answer.json()["memory"]
        assert (memory["stored"], memory["degraded"]) == (False, "conflict")

    @rule(who=WHO, pick=PICK, streams=st.tuples(st.booleans(), st.booleans()), keyed=st.booleans())
    def race(self, who: int, pick: int, streams: tuple[bool, bool], keyed: bool) -> None:
        """The same request twice at the same time: its message is stored once, and one of the two replies stays."""
        person = self.person(who)
        talk = self.talk(person, pick)
        if talk is None:
            return
        message = {"role": "user", "content": self.fact()}
        copy = self.told(person, message["content"])
        messages = [*talk.messages(), message]
        key = f"k{next(self.world.words)}" if keyed else None
        replies = self.at_once(
            *(partial(self.ask, person, talk, messages, stream=stream, key=key) for stream in streams)
        )
        assert any(reply["stored"] for reply in replies)
        rows = [row for row in self.world.export(person) if row["type"] == "message"]
        talk.said.append((message, copy))
        kept = {row["content"]: row["superseded_at"] is None for row in rows}
        assert sum(kept.get(reply["text"], False) for reply in replies) == 1
        for reply in sorted(replies, key=lambda reply: kept.get(reply["text"], False)):
            if reply["text"] in kept:
                self.reply(person, talk, reply["text"])
                if not kept[reply["text"]]:
                    person.take_back([talk.said.pop()])

    @rule(whos=st.lists(WHO, min_size=2, max_size=4, unique=True), pick=PICK)
    def crowd(self, whos: list[int], pick: int) -> None:
        """Several users at the same time."""
        people = [self.person(who) for who in whos]
        talks = [self.talk(person, pick) or Talk(None) for person in people]
        said = [{"role": "user", "content": self.fact()} for _ in people]
        replies = self.at_once(
            *(
                partial(self.ask, person, talk, [*talk.messages(), message], stream=bool(n % 2))
                for n, (person, talk, message) in enumerate(zip(people, talks, said, strict=True))
            )
        )
        for person, talk, message, reply in zip(people, talks, said, replies, strict=True):
            assert reply["stored"] is True
            if talk not in person.talks:
                person.talks.append(talk)
            talk.said.append((message, self.told(person, message["content"])))
            self.reply(person, talk, reply["text"])

    def at_once(self, *calls: Callable[[], Json]) -> list[Json]:
        with ThreadPoolExecutor(len(calls)) as pool:
            return [future.result() for future in [pool.submit(call) for call in calls]]

    @rule(who=WHO, pick=PICK)
    def late_retry(self, who: int, pick: int) -> None:
        """Of a turn that the conversation has left behind: nothing changes."""
        person = self.person(who)
        old = [
            (talk, key, messages)
            for talk in person.talks
            for key, messages in talk.keyed
            if messages == talk.messages(len(messages)) and len(talk.said) > len(messages) + 1
        ]
        if old:
            talk, key, messages = old[pick % len(old)]
            self.ask(person, talk, messages, stream=False, key=key)

    @rule(who=WHO, num=st.integers(1, 3), wait=st.booleans())
    def add(self, who: int, num: int, wait: bool) -> None:
        person = self.person(who)
        rows = [{"role": "user", "content": self.fact(), "id": f"id/{next(self.world.words)}"} for _ in range(num)]
        body = {"messages": rows, "session_id": "notes", "wait": wait}
        answer = self.world.memory("POST", "add", person, json=body)
        assert answer == {"message_ids": [row["id"] for row in rows]}
        for row in rows:
            self.told(person, row["content"], row["id"])

    @rule(who=WHO, pick=PICK, same=st.booleans())
    def add_again(self, who: int, pick: int, same: bool) -> None:
        person = self.person(who)
        known = [copy for copy in person.copies if copy.id and copy.state == "active"]
        if not known:
            return
        copy = known[pick % len(known)]
        content = copy.content if same else self.fact()
        body = {"user_id": person.user, "messages": [{"role": "user", "content": content, "id": copy.id}]}
        answer = self.world.call("POST", "/v1/memory/add", person, json=body)
        assert answer.status_code == (200 if same else 409), answer.text

    @rule(who=WHO)
    def flush(self, who: int) -> None:
        stats = self.world.memory("POST", "flush", self.person(who))
        assert (stats["pending"], stats["parked"]) == (0, [])

    @rule(who=WHO)
    def list_entries(self, who: int) -> None:
        person = self.person(who)
        entries = self.world.memory("GET", "entries", person, params={"limit": "500"})["entries"]
        shown = Counter(_word(entry) for entry in entries if entry["state"] in ("active", "pending"))
        assert shown == person.words("active")
        hidden = Counter(_word(entry) for entry in entries if entry["state"] == "superseded")
        assert hidden <= person.words("superseded")  # what was superseded while pending is no entry

    def only(self, person: Person, entries: list[Json]) -> list[tuple[Json, Copy]]:
        """Those that stand for exactly one message of the model."""
        places: dict[str, list[Copy]] = {}
        for copy in person.copies:
            if copy.state != "deleted":
                places.setdefault(copy.word, []).append(copy)
        return [(entry, found[0]) for entry in entries if len(found := places[_word(entry)]) == 1]

    @rule(who=WHO, pick=PICK)
    def change(self, who: int, pick: int) -> None:
        person = self.person(who)
        entries = self.world.memory("GET", "entries", person, params={"limit": "500", "state": "active"})["entries"]
        known = self.only(person, entries)
        if not known:
            return
        entry, copy = known[pick % len(known)]
        word = next(self.world.words)
        body = {"text": f"It has another name now: {word}.", "if_version": entry["version"]}
        route = f"/v1/memory/entries/{entry['id']}"
        answer = self.world.call("PATCH", route, person, params={"user_id": person.user}, json=body)
        assert answer.status_code == 200, answer.text
        copy.word = word

    @rule(who=WHO, pick=PICK)
    def delete(self, who: int, pick: int) -> None:
        person = self.person(who)
        for _ in range(20):
            entries = self.world.memory("GET", "entries", person, params={"limit": "500"})["entries"]
            known = self.only(person, entries)
            if not known:
                return
            entry, copy = known[pick % len(known)]
            route = f"/v1/memory/entries/{entry['id']}"
            answer = self.world.call("DELETE", route, person, params={"user_id": person.user})
            if answer.status_code == 200:
                copy.state = "deleted"
                return
            # A pending message became an entry since it was listed, and has another id now.
            assert (answer.status_code, entry["state"]) == (404, "pending"), answer.text
        raise AssertionError("it is never there")

    @rule(who=WHO, chance=st.integers(0, 2))
    def erase(self, who: int, chance: int) -> None:
        person = self.person(who)
        if chance:
            return
        words = {copy.word for copy in person.copies} | set(WORD.findall(str([copy.content for copy in person.copies])))
        deleted = self.world.memory("DELETE", f"users/{person.user}", person)["deleted"]
        assert deleted["messages"] == sum(copy.state != "deleted" for copy in person.copies)
        assert self.world.export(person) == []
        self.erased.append((person, words))
        del self.people[who]

    @rule(who=WHO, pick=PICK, other=WHO)
    def look(self, who: int, pick: int, other: int) -> None:
        """The owner finds what is active and nothing else; nobody else finds anything."""
        person = self.person(who)
        if not person.copies:
            return
        copy = person.copies[pick % len(person.copies)]
        told = WORD.findall(copy.content)[0]
        for word in {copy.word, told}:
            assert self.world.search(person, word) == (word in person.words("active")), word
        namesake = Person((person.tenant + 1 + pick % (NUM_TENANTS - 1)) % NUM_TENANTS, person.user)
        assert not self.world.search(namesake, copy.word)
        if other != who:
            assert not self.world.search(self.person(other), copy.word)

    @precondition(lambda self: self.erased)
    @rule(pick=PICK)
    def look_for_erased(self, pick: int) -> None:
        person, words = self.erased[pick % len(self.erased)]
        if words:
            assert not self.world.search(person, sorted(words)[pick % len(words)])

    @rule(who=WHO)
    def compare(self, who: int) -> None:
        """An export holds every message once, and at most one entry for each."""
        person = self.person(who)
        rows = self.world.export(person)
        messages = [row for row in rows if row["type"] == "message"]
        assert len({row["id"] for row in messages}) == len(messages)
        for state in ("active", "superseded"):
            exported = Counter(
                row["content"] for row in messages if (row["superseded_at"] is None) == (state == "active")
            )
            assert exported == Counter(copy.content for copy in person.copies if copy.state == state)
        latest = {row["id"]: row for row in rows if row["type"] == "entry"}
        sources = Counter(source["message"] for row in latest.values() for source in row["sources"])
        assert all(count == 1 for count in sources.values())
        known = {
            word
            for copy in person.copies
            if copy.state != "deleted"
            for word in (copy.word, *WORD.findall(copy.content))
        }
        assert {word for row in latest.values() for word in WORD.findall(row["text"])} <= known
        gone = [copy for copy in person.copies if copy.state == "deleted"]
        assert not {copy.word for copy in gone if copy.word not in known} & set(WORD.findall(json.dumps(rows)))

    def teardown(self) -> None:
        for who, person in list(self.people.items()):
            if person.copies:
                self.flush(who)
                self.list_entries(who)
                self.compare(who)
        for number, (who, person) in enumerate(list(self.people.items())[:6]):
            for copy in person.copies[-4:]:
                self.look(who, person.copies.index(copy), (who + number + 1) % (NUM_TENANTS * NUM_NAMES))


def _word(entry: Json) -> str:
    """The one word of ours in an entry."""
    (word,) = WORD.findall(entry["text"])
    return str(word)


def _reply(body: Json) -> tuple[str, Json]:
    return body["choices"][0]["message"]["content"], body["memory"]


def _read(text: str) -> tuple[str, Json]:
    """The reply and the memory object of a stream."""
    said = ""
    memory: Json = {}
    for line in text.splitlines():
        if line.startswith("data: {"):
            part = json.loads(line.removeprefix("data: "))
            memory = part.get("memory", memory)
            said += part["choices"][0]["delta"].get("content", "")
    return said, memory


@contextmanager
def _world(directory: Path) -> Iterator[World]:
    keys = directory / "keys.toml"
    rows = [(f"sk-{kind}-{n}", n, kind == "admin") for n in range(NUM_TENANTS) for kind in ("plain", "admin")]
    keys.write_text(
        "".join(
            f'[[keys]]\nkey = "{key}"\ntenant = "tenant{n}"\nadmin = {str(admin).lower()}\n' for key, n, admin in rows
        )
    )
    keys.chmod(0o600)
    with ScriptedUpstream() as upstream:
        arguments = ["--upstream", upstream.url, "--keys", str(keys)]
        with Server(directory / "data", SETTINGS, arguments) as server:
            world = World(server, upstream)
            WORLD.append(world)
            try:
                yield world
            finally:
                WORLD.clear()
                world.http.close()


def test_a_thousand_requests_leave_what_the_model_says(tmp_path: Path) -> None:
    with _world(tmp_path) as world:
        run_state_machine_as_test(
            Requests,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],  # to shrink a failure takes thousands of requests
                suppress_health_check=list(HealthCheck),
            ),
        )
        assert world.num_requests >= 1000, world.num_requests
        assert "Traceback" not in world.server.log.read_text()
