"""The fields of a request by which vLLM shares its queue and its caches. They are ours to set, not a client's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lightmem_engine.models.turn_places import contents_of
from lightmem_engine.serving.reply import read_object
from lightmem_engine.types import OpenTurn, Priority
from lightmem_engine.vllm_plugin.attention.plan import TURNS

FIELDS = frozenset({"priority", "cache_salt", "kv_transfer_params"})
_SUSPECT = (*(name.encode() for name in FIELDS), b"\\u")  # a key may be written in escapes


def stamped(body: Mapping[str, Any], turn: OpenTurn, *, attention: bool = False) -> bytes:
    """The body of a chat with memory: our messages, the user's salt, the class of a chat; no client's word on these.

    attention: ask for the attention between the turns, too.
    """
    kept = {name: value for name, value in body.items() if name not in FIELDS and name != "memory"}
    kept["messages"] = [dict(message) for message in turn.messages]
    kept["priority"] = int(Priority.FOREGROUND)
    if turn.salt:
        kept["cache_salt"] = turn.salt
    params = dict(turn.kv_params)
    if attention:
        params[TURNS] = contents_of(turn.messages)
    if params:
        kept["kv_transfer_params"] = params
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def cleaned(raw: bytes, tenant: str) -> bytes:
    """The body of a request without memory: untouched, unless it sets fields that are ours.

    Priority and KV parameters are dropped. A salt stays one, bound to the tenant, so that it opens no other cache.
    """
    if not any(word in raw for word in _SUSPECT):
        return raw
    body = read_object(raw)
    if not FIELDS & body.keys():
        return raw
    kept = {name: value for name, value in body.items() if name not in FIELDS}
    salt = body.get("cache_salt")
    if isinstance(salt, str) and salt:
        bound = f"{tenant}\0{salt}".encode("utf-8", "surrogatepass")
        kept["cache_salt"] = "t:" + hashlib.sha256(bound).hexdigest()
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
