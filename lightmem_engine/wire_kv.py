"""What connectors in a model server and the owner of the memory say to each other, on the owner's socket."""

from __future__ import annotations

FOLLOW_PATH = "/v1/memory/kv/follow"
STANDS_PATH = "/v1/memory/kv/stands"
BIND_PATH = "/v1/memory/kv/bind"
ATTENTION_PATH = "/v1/memory/attention"
KV_PATHS = frozenset({FOLLOW_PATH, STANDS_PATH, BIND_PATH, ATTENTION_PATH})

POLL_SECONDS = 5.0  # the owner answers at the latest then, news or not
LEASE_SECONDS = 15.0  # what it has said holds so long
