"""Entropy by a server's prompt log-probabilities, over HTTP; the server is one of the tests, its tokens are words."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from lightmem_engine.config_loader import load
from lightmem_engine.errors import BackendUnavailable, InvalidInput, ModelError
from lightmem_engine.loading import load_encoders
from lightmem_engine.models.remote_entropy import RemoteEntropyClassifier
from lightmem_engine.types import Window


class Server(ThreadingHTTPServer):
    """Answers completions with echo; a word's cross-entropy is its length. `said`: the bodies it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.said: list[dict[str, Any]] = []
        self.status = 200
        self.answer: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "theirs"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.said.append(body)
        prompt = body["prompt"]
        tokens = [match.span() for match in re.finditer(r"\s*\w+|[^\w\s]|\s+$", prompt)]
        logprobs = [None, *(-float(len(prompt[a:b].strip())) for a, b in tokens[1:])]
        found = {"text_offset": [*(a for a, _ in tokens), len(prompt)], "token_logprobs": [*logprobs, -99.0]}
        answer = {"choices": [{"text": f"{prompt} more", "logprobs": found}]}
        self._send(self.server.status, self.server.answer or answer)

    def _send(self, status: int, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def test_words_get_the_servers_cross_entropy(server: Server) -> None:
    window = Window(("what was said", "my extraordinary sister, too"), 1)
    (scores,) = RemoteEntropyClassifier(server.url, "").score([window])
    text = window.texts[1]
    assert scores.words[0] == ()
    assert [(text[w.start : w.end], w.keep) for w in scores.words[1]] == [
        *(("my", 2.0), ("extraordinary", 13.0), ("sister", 6.0), (",", 1.0), ("too", 3.0))
    ]
    assert np.isnan(scores.attention).all()
    assert np.isnan(scores.mass).all()
    (body,) = server.said
    assert body["prompt"] == "what was said\nmy extraordinary sister, too"
    assert (body["model"], body["echo"], body["logprobs"]) == ("theirs", True, 0)


def test_a_character_of_several_tokens_counts_with_all_of_them(server: Server) -> None:
    """As vLLM answers: the tokens of such a character begin at the same place."""
    logprobs = {"text_offset": [0, 1, 1, 1, 2, 3], "token_logprobs": [None, -1.0, -2.0, -6.0, -5.0, -99.0]}
    server.answer = {"choices": [{"logprobs": logprobs}]}
    (scores,) = RemoteEntropyClassifier(server.url, "m").score([Window(("a\u91cc\u65af",))])
    assert [(w.start, w.end, w.keep) for w in scores.words[0]] == [(0, 1, 0.0), (1, 2, 3.0), (2, 3, 5.0)]


def test_the_server_of_the_language_model_is_asked(server: Server) -> None:
    settings = ["classifier.source=entropy", f"lm.url={server.url}", "lm.model=mine", "device.kind=cpu"]
    classifier = load_encoders(load(settings=[*settings, "embedder.stub=true"]).config).classifier
    classifier.score([Window(("a few words",))])
    assert server.said[0]["model"] == "mine"


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (503, {}, BackendUnavailable),
        (429, {}, BackendUnavailable),
        (400, {"message": "echo is not supported"}, ModelError),
        (200, {"choices": [{"text": "no logprobs"}]}, ModelError),
        (200, {"choices": [{"logprobs": {"text_offset": [0], "token_logprobs": []}}]}, ModelError),
    ],
)
def test_a_server_that_cannot_is_told_apart_from_one_that_is_away(
    server: Server, status: int, answer: Any, error: type[Exception]
) -> None:
    server.status, server.answer = status, answer
    with pytest.raises(error, match=r"entropy\(m\)"):
        RemoteEntropyClassifier(server.url, "m").score([Window(("text",))])


def test_nobody_there_and_nothing_to_read() -> None:
    away = RemoteEntropyClassifier("http://127.0.0.1:9/v1", "m", timeout_seconds=5)
    with pytest.raises(BackendUnavailable):
        away.score([Window(("text",))])
    with pytest.raises(InvalidInput):
        away.score([Window(())])
