"""A model server that does, byte for byte, what a test scripts: a thread per connection over plain sockets."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Hang:
    """Say nothing more until the other side leaves."""


@dataclass(frozen=True)
class Abort:
    """Reset the connection."""


@dataclass(frozen=True)
class Gate:
    """Wait until the test opens it."""

    event: threading.Event


Step = bytes | Hang | Abort | Gate


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class ScriptedUpstream:
    """Answers every request with `plan`, or with `plans[path]` where there is one, or else with what `answer` makes
    of it."""

    def __init__(self) -> None:
        self.plan: Sequence[Step] = whole({"ok": True})
        self.plans: dict[str, Sequence[Step]] = {}
        self.answer: Callable[[Seen], Sequence[Step]] | None = None
        self.seen: list[Seen] = []
        self.left = threading.Event()  # somebody has hung up on us
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for connection in list(self._open):
            connection.close()

    def reset(self) -> None:
        """Forget what was seen and scripted."""
        self.plan, self.plans, self.answer = whole({"ok": True}), {}, None
        self.seen.clear()
        self.left.clear()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        try:
            with connection, connection.makefile("rb") as reader:
                seen = _read(reader)
                if seen is None:
                    return
                if seen.target != "/metrics":  # its load is read now and then, whenever background work waits
                    self.seen.append(seen)
                plan = self.answer(seen) if self.answer else self.plan
                for step in self.plans.get(seen.target.partition("?")[0], plan):
                    if not self._do(step, connection):
                        return
        except OSError:
            self.left.set()
        finally:
            self._open.discard(connection)

    def _do(self, step: Step, connection: socket.socket) -> bool:
        match step:
            case bytes():
                connection.sendall(step)
            case Gate(event):
                event.wait(30)
            case Hang():
                connection.settimeout(60)
                connection.recv(1)
                self.left.set()
                return False
            case Abort():
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
        return True


def _read(reader: Any) -> Seen | None:
    first = reader.readline().decode().split()
    if len(first) != 3:
        return None
    headers: list[tuple[str, str]] = []
    while line := reader.readline().rstrip(b"\r\n"):
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name, value.strip()))
    known = {name.lower(): value for name, value in headers}
    body = b""
    if "chunked" in known.get("transfer-encoding", ""):
        while size := int(reader.readline(), 16):
            body += reader.read(size)
            reader.readline()
        reader.readline()
    else:
        body = reader.read(int(known.get("content-length", 0)))
    return Seen(first[0], first[1], headers, body)


def head(status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A status line and headers."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers), "Connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def whole(body: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> list[Step]:
    """A complete answer; anything but bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = [("Content-Type", "application/json")] if not any(n.lower() == "content-type" for n, _ in headers) else []
    return [head(status, [*kind, *headers, ("Content-Length", str(len(raw)))]) + raw]


def chunked(pieces: Iterable[bytes], *, end: bool = True, status: int = 200) -> list[Step]:
    """A stream of events in these pieces, each a chunk of its own."""
    steps: list[Step] = [
        head(status, [("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")])
    ]
    steps += [f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces]
    return [*steps, b"0\r\n\r\n"] if end else steps


def event(data: Any, line_end: bytes = b"\n") -> bytes:
    """One event."""
    return b"data: " + json.dumps(data).encode() + line_end * 2


def chunk(delta: Any, finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """A chunk of a streamed answer."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **fields}


def completion(content: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """A whole answer."""
    said = {"role": "assistant", "content": content, **message}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "made_up": {"x": 1}}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": finish}],
        "usage": usage,
    }
