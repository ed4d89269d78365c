"""Do answers come out right, end to end: invented people tell facts over HTTP, correct some, and ask in a new session.

    python -m bench.bench_people [--people 50] [--model DIR] [--kinds with without restarted] [--show N]

Each person tells 12 facts in four sessions, with chatter between them, and corrects three of them in a later session.
What was told is flushed, so that it is answered from entries as memory keeps them, compressed. A fifth session asks for
all twelve: with memory, with `memory.read` off, and after a restart of the server. Names and values are from the half
that the packaged model never saw in training. An answer counts if every character is right.
Rows go to bench/results/people.csv.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.harness import parser_of, table_of
from lightmem_engine.training.lives import USER, Teller
from lightmem_engine.training.phrases import CHATTER
from lightmem_engine.training.values import Values
from tests.support.server import Server

NUM_FACTS, NUM_SESSIONS, NUM_CORRECTIONS, NUM_CHATTER = 12, 4, 3, 2
KINDS = ("with", "without", "restarted")
NOISE = 0.5  # how often a sentence stands among others


@dataclass(frozen=True, slots=True)
class Person:
    """sessions: what is said in each.   questions: (question, the one right answer, whether it was corrected)."""

    name: str
    sessions: tuple[tuple[str, ...], ...]
    questions: tuple[tuple[str, str, bool], ...]


def person(number: int, seed: str) -> Person:
    """The person of this number; equal arguments give equal people."""
    rng = random.Random(f"person {seed} {number}")
    teller = Teller(rng, Values(rng, "held_out"), NOISE)
    keys = teller.keys(teller.people(USER, 4), NUM_FACTS)
    sessions: list[list[str]] = [rng.sample(CHATTER, NUM_CHATTER) for _ in range(NUM_SESSIONS)]
    days = teller.days(NUM_SESSIONS)
    values = {}
    corrected = rng.sample(range(NUM_FACTS), NUM_CORRECTIONS)
    for place, key in enumerate(keys):
        told = place * NUM_SESSIONS // NUM_FACTS if place not in corrected else rng.randrange(NUM_SESSIONS - 1)
        note = teller.tell(key, days[told], USER)
        sessions[told].append(note.text)
        if place in corrected:
            later = rng.randrange(told + 1, NUM_SESSIONS)
            note = teller.tell(key, days[later], USER, change=True)
            sessions[later].append(note.text)
        values[key] = note.value
    for session in sessions:
        rng.shuffle(session)
    forms = {key: rng.randrange(len(key.attribute.ask)) for key in keys}
    asked = rng.sample(keys, len(keys))
    questions = [
        (key.question(USER, forms[key]), key.answer(f"{values[key]}."), keys.index(key) in corrected) for key in asked
    ]
    return Person(f"person-{seed}-{number}", tuple(map(tuple, sessions)), tuple(questions))


class Client:
    """One conversation after another with a server, as an OpenAI client leads them: the history is sent each time."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=300)
        self._model = self._http.get("/v1/models").raise_for_status().json()["data"][0]["id"]

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def flush(self) -> None:
        """Wait until everything told has become entries."""
        self._http.post("/v1/memory/flush", json={}, timeout=3600).raise_for_status()

    def converse(self, user: str, session: str, said: Sequence[str], **memory: Any) -> list[str]:
        """The replies to what is said in one session."""
        messages: list[dict[str, str]] = []
        replies = []
        for text in said:
            messages.append({"role": "user", "content": text})
            body = {
                "model": self._model,
                "messages": messages,
                "temperature": 0,
                "max_tokens": 64,
                "memory": {"user_id": user, "session_id": session, **memory},
            }
            answer = self._http.post("/v1/chat/completions", json=body).raise_for_status().json()
            replies.append(str(answer["choices"][0]["message"]["content"]))
            messages.append({"role": "assistant", "content": replies[-1]})
        return replies


@contextmanager
def serving(data_dir: Path, model: str, settings: Sequence[str] = ()) -> Iterator[Client]:
    """A server over the directory, and a client of it."""
    with Server(data_dir, settings, ["--model", model] if model else []) as server:
        client = Client(server.url)
        try:
            yield client
        finally:
            client.close()


def ask(client: Client, people: Sequence[Person], session: str, show: int = 0, **memory: Any) -> dict[str, float]:
    """Shares of exact answers: of all questions, and of those about facts that were corrected."""
    right: list[bool] = []
    corrected: list[bool] = []
    for one in people:
        replies = client.converse(one.name, session, [question for question, _, _ in one.questions], **memory)
        for reply, (question, wanted, was_corrected) in zip(replies, one.questions, strict=True):
            right.append(reply.strip() == wanted)
            if was_corrected:
                corrected.append(right[-1])
            if not right[-1] and show:
                show -= 1
                print(f"    {question}\n      {reply!r} instead of {wanted!r}")
    return {"exact": sum(right) / len(right), "exact corrected": sum(corrected) / len(corrected)}


def run(
    people: Sequence[Person], data_dir: Path, model: str, kinds: Sequence[str], show: int, settings: Sequence[str] = ()
) -> dict[str, Any]:
    """kind -> figures. The people's sessions are told first."""
    figures = {}
    with serving(data_dir, model, settings) as client:
        for one in people:
            for number, session in enumerate(one.sessions):
                client.converse(one.name, f"told-{number}", session)
        client.flush()
        if "with" in kinds:
            figures["with"] = ask(client, people, "asked", show)
        if "without" in kinds:
            figures["without"] = ask(client, people, "bare", read=False, write=False)
    if "restarted" in kinds:
        with serving(data_dir, model, settings) as client:
            figures["restarted"] = ask(client, people, "asked again")
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--model", default="", help="a Qwen checkpoint; default: the packaged one")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--show", type=int, default=0, help="so many wrong answers")
    args = parser.parse_args(argv)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    table = table_of("people", args)
    people = [person(number, args.seed) for number in range(args.people)]
    with tempfile.TemporaryDirectory() as directory:
        figures = run(people, Path(directory) / "data", args.model, args.kinds, args.show)
    for kind, found in figures.items():
        case = {"memory": kind, "people": args.people, "questions": args.people * NUM_FACTS, "seed": args.seed}
        for metric, value in found.items():
            table.value(case, metric, "share", value)
    return 0


if __name__ == "__main__":
    sys.exit(main())
