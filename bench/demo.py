"""What memory is for: tell facts in two sessions, kill the server with -9, start it again, correct one, sleep, ask.

    python -m bench.demo [--model DIR] [--stubs]

Every question is asked with memory and, beside it, without. Everything happens in a temporary directory on a free port.
Exit code 0 if every question recalled its fact. The words are those that the packaged model knows; a larger one takes
any.
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

from tests.support.server import STUB_MODELS, Server

USER = "ann"
TOLD = {
    "monday": ("My sister lives in Lisbon.", "I am allergic to peanuts.", "My door code is 4711."),
    "tuesday": ("My dentist is called Marta.", "Things changed, my sister moved to Porto."),
}
CORRECTION = "Correction: my door code is 2580."
OUTDATED = "4711"
QUESTIONS = {
    "What is my door code?": "2580",
    "Where does my sister live?": "Porto",
    "What am I allergic to?": "peanuts",
    "Who is my dentist?": "Marta",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole story."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stubs", action="store_true", help="run no model at all")
    parser.add_argument("--model", default="", help="a Qwen checkpoint to answer with; default: the packaged one")
    args = parser.parse_args(argv)
    settings = ("sleep.mode=rules", *(STUB_MODELS if args.stubs else ()))
    arguments = ("--model", args.model, "--set", "extract.mode=extractive") if args.model else ()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as directory:
            return story(Path(directory) / "data", settings, arguments)
    except (APIError, httpx.HTTPError, AssertionError) as error:  # AssertionError: the server did not start
        print(f"demo: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def story(data_dir: Path, settings: Sequence[str], arguments: Sequence[str]) -> int:
    """Tell, kill, ask; 0 if all was recalled."""
    print("Starting the server ...", flush=True)
    server = Server(data_dir, settings, arguments)
    try:
        server.wait_ready()
        with openai(server) as client:
            for session, facts in TOLD.items():
                print(f"\nSession {session!r}:")
                for fact in facts:
                    print(f"  {USER}: {fact}", flush=True)
                    chat(client, session, fact)
    finally:
        server.kill()
    print("\nkill -9. Starting the server again ...", flush=True)
    started = time.perf_counter()
    with (
        Server(data_dir, settings, arguments) as server,
        openai(server) as client,
        httpx.Client(base_url=server.url) as native,
    ):
        print(f"Ready after {time.perf_counter() - started:.1f} s.\n\nSession 'tuesday night', then sleep:")
        print(f"  {USER}: {CORRECTION}")
        chat(client, "tuesday night", CORRECTION)
        is_gone = sleep(native)
        print("\nSession 'wednesday':")
        recalled = sum(ask(client, native, question, fact) for question, fact in QUESTIONS.items())
        stranger = search(native, "eve", next(iter(QUESTIONS)))
        print(f"\n{recalled} of {len(QUESTIONS)} facts recalled; another user gets {len(stranger)} of them.")
        print(f"What was corrected is {'gone from recall' if is_gone else 'still recalled'}, and not from memory.")
    return 0 if recalled == len(QUESTIONS) and is_gone and not stranger else 1


def sleep(native: httpx.Client) -> bool:
    """Let the newer memories change the older ones and show the diff; whether the outdated fact left recall."""
    native.post("/v1/memory/flush", json={"user_id": USER}, timeout=60).raise_for_status()
    answer = native.post("/v1/memory/sleep", json={"user_id": USER, "wait": True}, timeout=60).raise_for_status()
    report = native.get(f"/v1/memory/sleep/{answer.json()['id']}", timeout=60).raise_for_status().json()
    for change in report["changes"]:
        print(f"  {change['action']}: {change['before_text']!r}\n    by {change['other_text']!r}: {change['reason']}")
    return not any(OUTDATED in text for text in search(native, USER, next(iter(QUESTIONS))))


def openai(server: Server) -> OpenAI:
    """The stock client."""
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def model(client: OpenAI) -> str:
    """The name of the model that answers."""
    return client.models.list().data[0].id


def chat(client: OpenAI, session: str, text: str) -> str:
    """One chat turn; the reply. An empty session asks the bare model."""
    headers = {"X-Memory-User-Id": USER, "X-Memory-Session-Id": session} if session else {}
    reply = client.chat.completions.create(
        model=model(client),
        messages=[{"role": "user", "content": text}],
        temperature=0,
        max_tokens=64,
        extra_headers=headers,
    )
    return reply.choices[0].message.content or ""


def ask(client: OpenAI, native: httpx.Client, question: str, fact: str) -> bool:
    """Ask in a new session and show what was recalled first; whether it holds the fact."""
    best = search(native, USER, question)
    found = next((text for text in best if fact in text), None)
    print(f"  {USER}: {question}\n    recalled:       {found or 'not found'}")
    print(f"    with memory:    {chat(client, 'wednesday', question)}")
    print(f"    without memory: {chat(client, '', question)}", flush=True)
    return found is not None


def search(native: httpx.Client, user: str, question: str) -> list[str]:
    """What the user's memory holds on a question, best first."""
    body = {"user_id": user, "query": question, "top_k": 3}
    answer = native.post("/v1/memory/search", json=body, timeout=60).raise_for_status()
    return [hit["text"] for hit in answer.json()["hits"]]


if __name__ == "__main__":
    sys.exit(main())
