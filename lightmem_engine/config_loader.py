"""From defaults, a TOML file, the environment and `--set` to one `EngineConfig`; it knows where each value came from.

Precedence: defaults < file < environment (`LIGHTMEM_LM__URL`) < settings (`lm.url=...`). An unknown name is an
error that suggests the nearest one; a bad value is an error that names its source.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import ConfigError

ENV_PREFIX = "LIGHTMEM_"
# Variables of ours that are not options of the tree: the kernels' override.
ENV_RESERVED = frozenset({"LIGHTMEM_KERNELS"})
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class Option:
    """One leaf of the tree."""

    path: str
    type: Any
    default: Any
    help: str
    secret: bool


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration and the source of every value that is not a default."""

    config: EngineConfig
    sources: Mapping[str, str]

    def source(self, path: str) -> str:
        """Where the value of a dotted path came from."""
        return self.sources.get(path, "default")

    def value(self, path: str) -> Any:
        """The value of a dotted path."""
        value: Any = self.config
        for part in path.split("."):
            value = getattr(value, part)
        return value


def options(kind: type = EngineConfig, prefix: str = "") -> Iterator[Option]:
    """Every leaf of the tree, in the order of its definition."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        path, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from options(hint, path + ".")
        else:
            yield Option(path, hint, field.default, field.metadata["help"], field.metadata["secret"])


def load(
    file: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
) -> LoadedConfig:
    """Read all sources. `settings` are `path=value` strings. Raises `ConfigError`."""
    known = {option.path: option for option in options()}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def put(path: str, raw: Any, source: str) -> None:
        if path not in known:
            raise ConfigError(f"{source}: unknown option {path!r}{_suggest(path, known)}")
        values[path] = _parse(raw, known[path], source)
        sources[path] = source

    if file is not None:
        for path, raw in _read_toml(Path(file), known):
            put(path, raw, f"file {file}")
    env = os.environ if env is None else env
    for name in sorted(env):
        if name.startswith(ENV_PREFIX) and name not in ENV_RESERVED:
            put(name.removeprefix(ENV_PREFIX).lower().replace("__", "."), env[name], f"environment {name}")
    for setting in settings:
        path, separator, raw = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting}: expected path=value")
        put(path.strip(), raw, f"--set {path.strip()}")
    return LoadedConfig(_build(EngineConfig, values, ""), sources)


def default_data_dir(env: Mapping[str, str] | None = None) -> Path:
    """`lightmem-engine` under the XDG data directory."""
    env = os.environ if env is None else env
    base = env.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "lightmem-engine"


def shown(option: Option, value: Any) -> str:
    """A value as people read it; secrets are masked."""
    if option.secret:
        return "***" if value else ""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def type_name(kind: Any) -> str:
    """A type as people read it."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return " | ".join(str(value) for value in typing.get_args(kind))
    if origin is tuple:
        return f"{type_name(typing.get_args(kind)[0])}, ..."
    return str(getattr(kind, "__name__", kind))


def markdown_table() -> str:
    """The option table of the README."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in options():
        default = shown(option, option.default)
        choices = (
            " or ".join(map(str, typing.get_args(option.type))) if typing.get_origin(option.type) is Literal else ""
        )
        meaning = f"{option.help} ({choices})" if choices else option.help
        rows.append(f"| `{option.path}` | {f'`{default}`' if default else 'empty'} | {meaning} |")
    return "\n".join(rows)


def _suggest(path: str, known: Mapping[str, Option]) -> str:
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
    if not near:
        leaf = path.rsplit(".", 1)[-1]
        near = [name for name in known if name.rsplit(".", 1)[-1] == leaf][:1]
    return f"; did you mean {near[0]!r}?" if near else ""


def _read_toml(file: Path, known: Mapping[str, Option]) -> Iterator[tuple[str, Any]]:
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error

    def walk(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in node.items():
            if isinstance(value, dict) and prefix + name not in known:
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    yield from walk(tree, "")


def _parse(raw: Any, option: Option, source: str) -> Any:
    try:
        return _convert(raw, option.type)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        given = "***" if option.secret else repr(raw)
        raise ConfigError(f"{source}: {option.path} = {given}: expected {type_name(option.type)}") from error


def _convert(raw: Any, kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is Literal:
        if raw not in typing.get_args(kind):
            raise ValueError(raw)
        return raw
    if origin is tuple:
        item = typing.get_args(kind)[0]
        parts = [part.strip() for part in raw.split(",") if part.strip()] if isinstance(raw, str) else raw
        if not isinstance(parts, list | tuple):
            raise TypeError(raw)
        return tuple(_convert(part, item) for part in parts)
    if kind is bool:
        return raw if isinstance(raw, bool) else _TRUTH[raw.lower()]
    if isinstance(raw, bool) or (kind is str and not isinstance(raw, str)) or (kind is int and isinstance(raw, float)):
        raise TypeError(raw)
    return kind(raw)


def _build(kind: type[Any], values: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        path, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            arguments[field.name] = _build(hint, values, path + ".")
        elif path in values:
            arguments[field.name] = values[path]
    return kind(**arguments)
