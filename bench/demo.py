"""What memory is for: tell facts in two sessions, kill the server with -9, start it again, ask in a third.

    python -m bench.demo [--stub-encoders]

Everything happens in a temporary directory on a free port. Exit code 0 if every question recalled its fact.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from openai import APIError, OpenAI

from tests.support.server import STUB_ENCODERS, Server

USER = "ann"
TOLD = {
    "monday": (
        "My sister Anna moved to Lisbon in March and works as a nurse.",
        "I am allergic to peanuts, so please never suggest satay.",
        "Our dog Bruno is a three year old beagle.",
    ),
    "tuesday": (
        "I bought a red Canyon bicycle for 2400 euros.",
        "My dentist appointment is on 14 June at 9:30.",
    ),
}
QUESTIONS = {
    "Where does my sister live?": "Lisbon",
    "Which food am I allergic to?": "peanuts",
    "What breed is our dog?": "beagle",
    "How much did the bicycle cost?": "2400",
    "When do I see the dentist?": "14 June",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole story."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stub-encoders", action="store_true", help="hash words instead of running a model")
    settings = STUB_ENCODERS if parser.parse_args(argv).stub_encoders else ()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as directory:
            return story(Path(directory) / "data", settings)
    except (APIError, httpx.HTTPError, AssertionError) as error:  # AssertionError: the server did not start
        print(f"demo: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def story(data_dir: Path, settings: Sequence[str]) -> int:
    """Tell, kill, ask; 0 if all was recalled."""
    print("Starting the server ...", flush=True)
    server = Server(data_dir, settings)
    try:
        server.wait_ready()
        for session, facts in TOLD.items():
            print(f"\nSession {session!r}:")
            for fact in facts:
                print(f"  {USER}: {fact}")
                chat(server, session, fact)
    finally:
        server.kill()
    print("\nkill -9. Starting the server again ...", flush=True)
    started = time.perf_counter()
    with Server(data_dir, settings) as server:
        print(f"Ready after {time.perf_counter() - started:.1f} s.\n\nSession 'wednesday':")
        recalled = sum(ask(server, question, fact) for question, fact in QUESTIONS.items())
        stranger = search(server, "eve", next(iter(QUESTIONS)))
        print(f"\n{recalled} of {len(QUESTIONS)} facts recalled; another user gets {len(stranger)} of them.")
        if model(server) == "stub":
            print("The answers come from the stub model, which only echoes: start with MODEL=... for real ones.")
    return 0 if recalled == len(QUESTIONS) and not stranger else 1


def chat(server: Server, session: str, text: str) -> str:
    """One chat turn through the OpenAI client; the reply."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        reply = client.chat.completions.create(
            model=model(server),
            messages=[{"role": "user", "content": text}],
            extra_headers={"X-Memory-User-Id": USER, "X-Memory-Session-Id": session},
        )
    return reply.choices[0].message.content or ""


def ask(server: Server, question: str, fact: str) -> bool:
    """Ask in a new session and show what was recalled first; whether it holds the fact."""
    best = search(server, USER, question)
    found = bool(best) and fact in best[0]
    print(f"  {USER}: {question}\n    recalled: {best[0] if best else 'nothing'}{'' if found else '   <- wrong'}")
    print(f"    answer:   {chat(server, 'wednesday', question)}", flush=True)
    return found


def search(server: Server, user: str, question: str) -> list[str]:
    """What the user's memory holds on a question, best first."""
    body = {"user_id": user, "query": question, "top_k": 3}
    answer = httpx.post(f"{server.url}/v1/memory/search", json=body, timeout=60, trust_env=False).raise_for_status()
    return [hit["text"] for hit in answer.json()["hits"]]


def model(server: Server) -> str:
    """The name of the model that answers."""
    models = httpx.get(f"{server.url}/v1/models", timeout=60, trust_env=False).raise_for_status()
    return str(models.json()["data"][0]["id"])


if __name__ == "__main__":
    sys.exit(main())
