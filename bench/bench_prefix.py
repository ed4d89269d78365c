"""Does memory keep vLLM's prefix cache? One long conversation with memory and the same one without.

    python -m bench.bench_prefix [--turns 20] [--dry]

The conversation with memory goes first, over one session, while other sessions of the same user add memories and close
segments. Then the same words are sent without an identity. vLLM says how many tokens of each prompt it found cached. Of
those cached with memory, the tokens of memory that can be among them, all that the prompt before had, are taken off;
what is left are the conversation's own. Rows in bench/results/prefix.csv.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.harness import parser_of, table_of
from tests.support.vllm_server import DETAILS, FAST, MODEL, VllmServer

CITIES = ("Lisbon", "Oslo", "Turin", "Porto", "Ghent", "Riga", "Bern", "Cork", "Lyon", "Graz")
PEOPLE = ("sister", "brother", "aunt", "uncle", "cousin", "neighbour", "boss", "dentist", "teacher", "friend")
ASIDE = "I keep a long list of such things, because otherwise I forget who lives where and whom I have to write to."


@dataclass(frozen=True, slots=True)
class Turn:
    """Tokens of one prompt, and how many of them were cached."""

    prompt: int
    cached: int


@dataclass(frozen=True, slots=True)
class Found:
    """Both conversations, turn by turn."""

    on: list[Turn]
    off: list[Turn]

    @property
    def share(self) -> float:
        """The conversation's own tokens cached with memory, per token cached without it."""
        memory = [on.prompt - off.prompt for on, off in zip(self.on, self.off, strict=True)]
        own = sum(
            max(0, min(on.cached - before, off.cached))
            for on, off, before in zip(self.on[1:], self.off[1:], memory, strict=False)
        )
        return own / max(1, sum(off.cached for off in self.off[1:]))


def sayings(turns: int) -> list[str]:
    """Facts and questions by turns."""
    said = []
    for turn in range(turns):
        person, city = PEOPLE[turn // 2 % len(PEOPLE)], CITIES[(3 * turn) % len(CITIES)]
        said.append(f"Where does my {person} live? {ASIDE}" if turn % 2 else f"My {person} moved to {city}. {ASIDE}")
    return said


def measure(url: str, key: str, user: str, turns: int) -> Found:
    """Hold both conversations."""
    headers = {"authorization": f"Bearer {key}"}
    named = headers | {"X-Memory-User-Id": user, "X-Memory-Session-Id": "long"}
    with httpx.Client(base_url=url, timeout=120) as http:
        history: list[dict[str, str]] = []
        prompts: list[list[dict[str, str]]] = []
        on = []
        for number, said in enumerate(sayings(turns)):
            history.append({"role": "user", "content": said})
            prompts.append(list(history))
            turn, reply = _ask(http, named, history)
            on.append(turn)
            history.append({"role": "assistant", "content": reply})
            if number % 4 == 3:  # memory grows beside the conversation
                message = {
                    "role": "user",
                    "content": f"My {PEOPLE[-number % 10]} bought a house in {CITIES[number % 10]}.",
                }
                body = {"user_id": user, "session_id": f"aside{number}", "messages": [message], "wait": True}
                http.post("/v1/memory/add", json=body, headers=headers).raise_for_status()
        off = [_ask(http, headers, prompt, cache_salt=f"{user} without memory")[0] for prompt in prompts]
    return Found(on, off)


def _ask(
    http: httpx.Client, headers: dict[str, str], messages: list[dict[str, str]], **rest: object
) -> tuple[Turn, str]:
    body = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 24, **rest}
    body["chat_template_kwargs"] = {"enable_thinking": False}
    answer = http.post("/v1/chat/completions", json=body, headers=headers)
    answer.raise_for_status()
    data = answer.json()
    memory = data.get("memory")
    if memory is not None and memory["degraded"]:
        raise RuntimeError(f"a turn was degraded: {memory['degraded']}")
    cached = (data["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Turn(data["usage"]["prompt_tokens"], cached), data["choices"][0]["message"]["content"] or ""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--turns", type=int, default=20)
    args = parser.parse_args(argv)
    table = table_of("prefix", args)
    with tempfile.TemporaryDirectory() as directory, VllmServer(Path(directory), *FAST, *DETAILS) as server:
        found = measure(server.url, "unused", "ann", args.turns)
    case = {"turns": args.turns, "model": "lightmem-micro-qwen", "block": 32}
    for name, turns in (("on", found.on), ("off", found.off)):
        table.value({**case, "memory": name}, "prompt tokens", "tokens", sum(turn.prompt for turn in turns))
        table.value({**case, "memory": name}, "cached prompt tokens", "tokens", sum(turn.cached for turn in turns))
    table.value(case, "own tokens cached with memory, per one cached without", "ratio", found.share)
    return 0


if __name__ == "__main__":
    sys.exit(main())
