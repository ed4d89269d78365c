"""API keys: which bearer token opens which tenant.

[[keys]]
key = "..."          # or sha256 = "hex digest of the key"
tenant = "acme"
admin = false        # may export, import, list users, run sleep
name = "web shop"    # for people
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightmem_engine.errors import ConfigError, InvalidInput
from lightmem_engine.names import check_name

logger = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
_FIELDS = {"key": str, "sha256": str, "tenant": str, "admin": bool, "name": str}
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is."""

    tenant: str = DEFAULT_TENANT
    admin: bool = True
    name: str = ""


class KeyRing:
    """The keys of one file. An empty path is a ring without keys: everybody is an admin of the default tenant."""

    def __init__(self, path: str) -> None:
        """Raises `ConfigError` if the file cannot be read or is wrong."""
        self._path = path
        self._keys: tuple[tuple[bytes, Caller], ...] = ()
        self.reload()

    @property
    def required(self) -> bool:
        """Whether a request must bring a key."""
        return bool(self._path)

    def reload(self) -> None:
        """Read the file again; if it is wrong, the keys stay as they were and `ConfigError` says why."""
        if self._path:
            self._keys = _read(Path(self._path).expanduser())

    def find(self, token: str) -> Caller | None:
        """The caller a bearer token belongs to. Compares with every key, so that time tells nothing."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found: Caller | None = None
        for known, caller in self._keys:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def clear_keys(path: str) -> list[str]:
    """The keys themselves, for a server that compares them itself; none for an empty path.

    Raises `ConfigError` if the file is wrong, or knows a key by its digest alone.
    """
    if not path:
        return []
    file = Path(path).expanduser()
    _read(file)
    rows = tomllib.loads(file.read_text("utf-8"))["keys"]
    hidden = [str(number) for number, row in enumerate(rows, 1) if "key" not in row]
    if hidden:
        raise ConfigError(
            f"identity.keys: {file}: vLLM checks keys itself and must know them; of key {', '.join(hidden)} there is "
            'only the sha256: write key = "..." there (chmod 600), or put a gateway (--upstream), which needs the '
            "digest alone, in front of vLLM"
        )
    return [row["key"] for row in rows]


def _read(path: Path) -> tuple[tuple[bytes, Caller], ...]:
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"identity.keys: cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"identity.keys: {path} is no TOML: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning("%s can be read by others; chmod 600 it", path)
    unknown = sorted(tree.keys() - {"keys"})
    rows = tree.get("keys")
    if unknown or not isinstance(rows, list) or not rows:
        raise ConfigError(f"identity.keys: {path} must hold [[keys]] tables and nothing else")
    keys = tuple(_key(f"{path}, key {number}", row) for number, row in enumerate(rows, 1))
    if len({digest for digest, _ in keys}) < len(keys):
        raise ConfigError(f"identity.keys: {path} lists a key twice")
    return keys


def _key(where: str, row: Any) -> tuple[bytes, Caller]:
    if not isinstance(row, dict):
        raise ConfigError(f"identity.keys: {where} is no table")
    for name, value in row.items():
        if name not in _FIELDS:
            raise ConfigError(f"identity.keys: {where} has an unknown field {name!r}; known are {', '.join(_FIELDS)}")
        if not isinstance(value, _FIELDS[name]):
            raise ConfigError(f"identity.keys: {name} of {where} must be a {_FIELDS[name].__name__}")
    if ("key" in row) == ("sha256" in row):
        raise ConfigError(f"identity.keys: {where} needs either key or sha256")
    if "tenant" not in row:
        raise ConfigError(f"identity.keys: {where} names no tenant")
    try:
        check_name("tenant", row["tenant"])
    except InvalidInput as error:
        raise ConfigError(f"identity.keys: {where}: {error}") from error
    caller = Caller(row["tenant"], row.get("admin", False), row.get("name", ""))
    if "key" in row:
        if not row["key"].strip():
            raise ConfigError(f"identity.keys: key of {where} is empty")
        return hashlib.sha256(row["key"].encode()).digest(), caller
    if not _DIGEST.fullmatch(row["sha256"].lower()):
        raise ConfigError(f"identity.keys: sha256 of {where} must be 64 hexadecimal digits")
    return bytes.fromhex(row["sha256"]), caller
