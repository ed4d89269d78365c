"""What KV connectors of other processes ask, on the owner's socket alone."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Request
from pydantic import Field, FiniteFloat

from lightmem_engine.errors import InvalidInput, NotFound
from lightmem_engine.kv.counters import BUCKETS
from lightmem_engine.pipeline.kv_keeper import KVKeeper
from lightmem_engine.pipeline.kv_reports import Report
from lightmem_engine.serving.access import engine_of
from lightmem_engine.serving.schemas import Strict, Text
from lightmem_engine.stores.kv_manifests import Manifest
from lightmem_engine.types import CacheOwner, Scope
from lightmem_engine.wire_kv import ATTENTION_PATH, BIND_PATH, FOLLOW_PATH, STANDS_PATH

BUCKET_COUNT = len(BUCKETS) + 1


class OwnerBody(Strict):
    """What a cache belongs to, as `types.CacheOwner`."""

    tenant: Text
    user: Text
    thread: Annotated[int, Field(ge=1)]
    link: Annotated[int, Field(ge=1)]

    def owner(self) -> CacheOwner:
        """The same."""
        return CacheOwner(Scope(self.user, self.tenant), self.thread, self.link)


class DurationsBody(Strict):
    """How long something took, as `kv.counters` has it."""

    buckets: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=BUCKET_COUNT, max_length=BUCKET_COUNT)]
    sum: Annotated[FiniteFloat, Field(ge=0)]


class ReportBody(Strict):
    """What a connector says of itself, as `pipeline.kv_reports`."""

    off: Annotated[str, Field(max_length=2000)] = ""
    totals: dict[str, dict[str, FiniteFloat]] = Field(default_factory=dict)
    seconds: dict[str, DurationsBody] = Field(default_factory=dict)
    held: list[tuple[int, Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]] = Field(default_factory=list)

    def report(self) -> Report:
        """The same."""
        seconds = {name: found.model_dump() for name, found in self.seconds.items()}
        held = {thread: (held, gone) for thread, held, gone in self.held}
        return Report(self.off, self.totals, seconds, held)


class FollowBody(Strict):
    """`POST /v1/memory/kv/follow`."""

    follower: Text
    epoch: str
    seq: Annotated[int, Field(ge=0)]
    report: ReportBody = Field(default_factory=ReportBody)


class StandsBody(Strict):
    """`POST /v1/memory/kv/stands`."""

    owner: OwnerBody


class BindBody(Strict):
    """`POST /v1/memory/kv/bind`; `fingerprint` in hexadecimal."""

    id: Text
    owner: OwnerBody
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    num_tokens: Annotated[int, Field(ge=1)]
    num_bytes: Annotated[int, Field(ge=1)]


class AttentionBody(Strict):
    """`POST /v1/memory/attention`: rows of `models.served_attention`, one per text."""

    texts: list[str]
    rows: list[tuple[FiniteFloat, FiniteFloat, FiniteFloat]]


def add_kv_owner_routes(app: FastAPI) -> None:
    """Follow, stands, bind; and what the model server's model attended to."""

    @app.post(FOLLOW_PATH)
    async def follow(request: Request, body: FollowBody) -> dict[str, Any]:
        keeper = _keeper(request)
        keeper.reports.take(body.follower, body.report.report())
        return await keeper.followers.follow(body.follower, body.epoch, body.seq)

    @app.post(STANDS_PATH)
    async def stands(request: Request, body: StandsBody) -> dict[str, bool]:
        return {"stands": await _keeper(request).stands(body.owner.owner())}

    @app.post(BIND_PATH)
    async def bind(request: Request, body: BindBody) -> dict[str, bool]:
        model = bytes.fromhex(body.fingerprint)
        manifest = Manifest(body.id, body.owner.owner(), model, body.num_tokens, body.num_bytes)
        return {"stands": await _keeper(request).add(manifest)}

    @app.post(ATTENTION_PATH)
    async def attention(request: Request, body: AttentionBody) -> dict[str, bool]:
        note = engine_of(request).note_attention
        if note is None:
            raise NotFound("this engine takes attention from no model server")
        if len(body.texts) != len(body.rows):
            raise InvalidInput("attention needs one row per text")
        note(body.texts, np.array(body.rows, np.float32).reshape(-1, 3))
        return {"noted": True}


def _keeper(request: Request) -> KVKeeper:
    keeper = engine_of(request).kv_keeper
    if keeper is None:
        raise NotFound("this engine keeps no KV caches")
    return keeper
