"""A client's connection: noticing that it is gone, and not waiting for ever until it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Message, Receive, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

T = TypeVar("T")


async def while_connected(receive: Receive, send: Send, work: Callable[[Send], Coroutine[Any, Any, None]]) -> None:
    """Run `work`, which answers through the `send` it is handed; cancel it as soon as the client has gone.

    The request's body has been read. Once the answer is complete nothing cancels what `work` has left to do.
    """
    complete = False

    async def noting(message: Message) -> None:
        nonlocal complete
        if message["type"] == "http.response.body" and not message.get("more_body"):
            complete = True
        await send(message)

    task = asyncio.ensure_future(work(noting))
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if complete:  # the server says "disconnect" then, too
            await asyncio.wait({task})
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.wait({task, gone})
    if not task.cancelled():
        task.result()


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Finish `work` even if this task is cancelled meanwhile; then the cancellation goes on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that cuts off a client which has taken nothing for `send_seconds` while there is something to take.

    The source of a stream waits as long as the client's buffer is full, so that nothing piles up here.
    """

    send_seconds = 60.0
    _deadline: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The buffer is full: start waiting."""
        super().pause_writing()
        self._deadline = self.loop.call_later(self.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stop_waiting()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def patient_protocol(send_seconds: float) -> type[PatientProtocol]:
    """The protocol with its time-out, as uvicorn wants it: a class."""
    return type("PatientProtocol", (PatientProtocol,), {"send_seconds": send_seconds})
