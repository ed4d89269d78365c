"""Whose memory is meant, under every level of trust."""

from __future__ import annotations

from typing import Any

import pytest

from lightmem_engine.errors import InvalidInput
from lightmem_engine.serving.identity import Trust, read_identity
from lightmem_engine.types import Scope, TurnOptions

HEADERS = {b"x-memory-user-id": b"h"}
BODY = {"memory": {"user_id": "b"}, "user": "u"}


@pytest.mark.parametrize(
    ("trust", "headers", "body", "user"),
    [
        ("user", HEADERS, BODY, "h"),
        ("user", {}, BODY, "b"),
        ("user", {}, {"user": "u"}, "u"),
        ("user", {}, {}, None),
        ("user", {b"x-memory-user-id": b""}, {}, None),
        ("body", HEADERS, BODY, "h"),
        ("body", {}, BODY, "b"),
        ("body", {}, {"user": "u"}, None),
        ("header", HEADERS, BODY, "h"),
        ("header", {}, BODY, None),
        ("user", {b"x-memory-user-id": "Jürgen".encode()}, {}, "Jürgen"),
        ("user", {b"x-memory-user-id": "Jürgen".encode("latin-1")}, {}, "Jürgen"),
    ],
)
def test_who(trust: Trust, headers: dict[bytes, bytes], body: dict[str, Any], user: str | None) -> None:
    identity = read_identity(headers, body, trust, "acme")
    assert (identity.scope if identity else None) == (Scope(user=user, tenant="acme") if user else None)


def test_options() -> None:
    headers = {b"x-memory-session-id": b"s1", b"idempotency-key": b"k"}
    memory = {"user_id": "u", "session_id": "s2", "read": False, "write": False, "top_k": 3, "max_tokens": 9}
    memory |= {"budget_ms": 25, "filters": {"kind": "fact"}}
    identity = read_identity(headers, {"memory": memory}, "user", "t")
    assert identity is not None
    assert identity.options == TurnOptions(
        session="s1",
        read=False,
        write=False,
        top_k=3,
        max_tokens=9,
        budget_ms=25,
        idempotency_key="k",
        filters={"kind": "fact"},
    )


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, {"memory": {"who": "u"}}),
        ({}, {"memory": []}),
        ({}, {"user": "a\nb"}),
        ({}, {"user": 5}),
        ({}, {"user": {}}),
        ({}, {"user": " "}),
        ({}, {"user": "x" * 257}),
        ({}, {"memory": {"user_id": "u", "session_id": ""}}),
        ({b"x-memory-user-id": b"a\tb"}, {}),
        ({b"x-memory-user-id": b"u", b"idempotency-key": b"k" * 300}, {}),
    ],
)
def test_bad_names_and_options(headers: dict[bytes, bytes], body: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        read_identity(headers, body, "user", "t")
