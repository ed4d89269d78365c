"""What the launcher tells every API server process, by one environment variable.

Processes are started by vLLM, in its own way; the environment is what all of them inherit. The internal token is among
it: like the rest of a process's environment it can be read by its user alone, who owns the memory anyway.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from typing import Literal, cast

from lightmem_engine.errors import ConfigError
from lightmem_engine.serving.identity import Trust
from lightmem_engine.serving.keys import Caller, KeyRing

VARIABLE = "LIGHTMEMENGINE_PLUGIN"
INTERNAL: Literal["internal"] = "internal"


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """socket: the owner's.   token: the owner's bearer token for this server.   trust, keys: as configured.

    api_keys: SHA-256 digests in hex of keys that vLLM knows and the file of keys does not.   attention: whether chats
    are to tell the owner how the model attends from turn to turn.
    """

    socket: str
    token: str
    trust: str = "user"
    keys: str = ""
    api_keys: tuple[str, ...] = ()
    attention: bool = False

    def publish(self, environment: MutableMapping[str, str] | None = None) -> None:
        """Write them where `received` reads them."""
        (os.environ if environment is None else environment)[VARIABLE] = json.dumps(asdict(self))


def received(environment: MutableMapping[str, str] | None = None) -> PluginSettings:
    """The launcher's settings. Raises `ConfigError` if there was no launcher."""
    text = (os.environ if environment is None else environment).get(VARIABLE)
    if text is None:
        raise ConfigError("memory inside vLLM is started with `lightmem-engine serve`, not with `vllm serve`")
    data = json.loads(text)
    return PluginSettings(**{**data, "api_keys": tuple(data["api_keys"])})


class Callers:
    """Whose request it is, by its bearer token. vLLM has checked the token before; nothing is taken for granted."""

    def __init__(self, settings: PluginSettings) -> None:
        """Raises `ConfigError` if the file of keys cannot be read."""
        self.trust = cast(Trust, settings.trust)
        self._ring = KeyRing(settings.keys)
        self._token = settings.token.encode()
        self._digests = settings.api_keys

    def find(self, authorization: bytes) -> Caller | Literal["internal"] | None:
        """The caller behind an `Authorization` header; `INTERNAL` for the owner, None for a stranger."""
        kind, _, rest = authorization.partition(b" ")
        token = rest.strip() if kind.lower() == b"bearer" else b""
        if token and hmac.compare_digest(token, self._token):
            return INTERNAL
        if not self._ring.required and not self._digests:
            return Caller()
        caller = self._ring.find(token.decode("utf-8", "surrogateescape")) if self._ring.required else None
        if caller is not None:
            return caller
        digest = hashlib.sha256(token).hexdigest()
        matches = sum(hmac.compare_digest(digest, known) for known in self._digests)  # all: time tells nothing
        return Caller() if matches else None
