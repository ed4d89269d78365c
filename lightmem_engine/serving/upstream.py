"""The model server behind the gateway: requests go there, and come back, byte for byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from lightmem_engine.errors import ConfigError, Overloaded
from lightmem_engine.serving.backends import Answer, ChatRequest, RawHeaders
from lightmem_engine.serving.errors import UpstreamTimeout, UpstreamUnreachable
from lightmem_engine.types import OpenTurn

CHECK_SECONDS = 5.0
KEEPALIVE_SECONDS = 2.0  # below what servers keep: a connection that they are just closing would fail a request
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_REQUEST = frozenset({b"host", b"expect"})
_REWRITTEN = frozenset({b"content-length", b"content-encoding", b"accept-encoding"})


@dataclass(frozen=True, slots=True)
class Target:
    """Where the model server is.

    keep_authorization: the client's own key is for that server, not for us.
    """

    url: str
    api_key: str = ""
    connect_seconds: float = 10.0
    read_seconds: float = 600.0
    max_connections: int = 512
    keep_authorization: bool = True


class Upstream:
    """Connections to one OpenAI-compatible server; the chat `Backend` of the gateway."""

    def __init__(
        self, target: Target, count_error: Callable[[str], None], transport: httpx.AsyncHTTPTransport | None = None
    ) -> None:
        """count_error: told the kind of each failure.   transport: instead of connections over the network.

        Raises `ConfigError` for an address that is none.
        """
        try:
            base = httpx.URL(target.url.rstrip("/").removesuffix("/v1").rstrip("/"))
        except httpx.InvalidURL as error:
            raise ConfigError(f"upstream.url: {error}") from error
        if base.scheme not in ("http", "https") or not base.host:
            raise ConfigError(f"upstream.url must begin with http:// or https://, got {target.url!r}")
        self._base = base
        self._prefix = base.raw_path.rstrip(b"/")
        self._target = target
        self._count_error = count_error
        self._timeout = httpx.Timeout(
            target.read_seconds, connect=target.connect_seconds, pool=target.connect_seconds
        ).as_dict()
        # The transport alone: a client would add headers, follow redirects and keep other people's cookies.
        self._transport = transport or httpx.AsyncHTTPTransport(
            limits=httpx.Limits(max_connections=target.max_connections, keepalive_expiry=KEEPALIVE_SECONDS)
        )

    async def begin(self, request: ChatRequest, turn: OpenTurn | None) -> Answer:
        """See `Backend`. With a turn, the `memory` object and our headers stay here."""
        target = b"/v1/chat/completions" + (b"?" + request.query if request.query else b"")
        if turn is None:
            response = await self.send("POST", target, request.headers, request.raw)
            return self.answer(response)
        body = {key: value for key, value in (request.body or {}).items() if key != "memory"}
        body["messages"] = [dict(message) for message in turn.messages]
        headers = [
            (name, value)
            for name, value in request.headers
            if name not in _REWRITTEN and not name.startswith(b"x-memory-") and name != b"x-request-id"
        ]
        headers += [(b"accept-encoding", b"identity"), (b"x-request-id", request.request_id.encode())]
        raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        return self.answer(await self.send("POST", target, headers, raw), decoded=True)

    async def send(
        self,
        method: str,
        target: bytes,
        headers: RawHeaders,
        content: bytes | AsyncIterator[bytes] | None,
    ) -> httpx.Response:
        """Send a request and wait for the beginning of its answer. target: path and query, untouched.

        Raises `UpstreamUnreachable`, `UpstreamTimeout`, or `Overloaded` when no connection is free.
        """
        request = httpx.Request(
            method,
            self._base,
            headers=self._outgoing(headers),
            content=content,
            extensions={"timeout": self._timeout, "target": self._prefix + target},
        )
        with self._mapped():
            try:
                return await self._transport.handle_async_request(request)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                # The server may have been closing an idle connection just then. Asking again is harmless only for
                # requests that may be made twice.
                if method not in _REPEATABLE or content is not None:
                    raise
            return await self._transport.handle_async_request(request)

    def answer(self, response: httpx.Response, *, decoded: bool = False) -> Answer:
        """The response as an answer; with `decoded`, without content coding and length."""
        dropped = HOP_BY_HOP | _named_by_connection(response.headers.raw)
        if decoded:
            dropped |= _REWRITTEN
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in dropped]
        kind = response.headers.get("content-type", "")
        return Answer(
            response.status_code,
            headers,
            self._pieces(response, decoded),
            response.aclose,
            is_stream=kind.partition(";")[0].strip().lower() == "text/event-stream",
            foreign=True,
        )

    async def check(self) -> bool:
        """Whether the server answers; a refusal for want of a key is an answer."""
        timeout = httpx.Timeout(CHECK_SECONDS).as_dict()
        request = httpx.Request(
            "GET",
            self._base,
            headers=self._outgoing([]),
            extensions={"timeout": timeout, "target": self._prefix + b"/v1/models"},
        )
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError:
            return False
        await response.aclose()
        return response.status_code < 500

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def _outgoing(self, headers: RawHeaders) -> list[tuple[bytes, bytes]]:
        dropped = HOP_BY_HOP | _OWN_REQUEST | _named_by_connection(headers)
        if self._target.api_key or not self._target.keep_authorization:
            dropped |= {b"authorization"}
        kept = [(name, value) for name, value in headers if name.lower() not in dropped]
        if self._target.api_key:
            kept.append((b"authorization", b"Bearer " + self._target.api_key.encode()))
        return kept

    async def _pieces(self, response: httpx.Response, decoded: bool) -> AsyncIterator[bytes]:
        with self._mapped():
            async for piece in response.aiter_bytes() if decoded else response.aiter_raw():
                yield piece

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        where = f"the model server at {self._base.scheme}://{self._base.netloc.decode()}"
        try:
            yield
        except httpx.PoolTimeout as error:
            self._count_error("busy")
            raise Overloaded(f"all {self._target.max_connections} connections to {where} are in use") from error
        except httpx.TimeoutException as error:
            self._count_error("timeout")
            raise UpstreamTimeout(f"{where} did not answer in time ({type(error).__name__})") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            self._count_error("connect" if isinstance(error, httpx.ConnectError) else "broken")
            raise UpstreamUnreachable(f"{where} cannot be reached: {error or type(error).__name__}") from error


def _named_by_connection(headers: RawHeaders) -> frozenset[bytes]:
    """Headers that the `Connection` header says are for one hop."""
    return frozenset(
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    )
