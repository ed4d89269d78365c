"""What an option is made of: its default, its help, and the check of its value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

from lightmem_engine.errors import ConfigError


def option(default: Any, help: str, *, secret: bool = False) -> Any:
    """A field with its default and the sentence that explains it; a secret is masked wherever it is shown."""
    return field(default=default, metadata={"help": help, "secret": secret}, repr=not secret)


def section(kind: Callable[[], Any], help: str) -> Any:
    """A nested group of options."""
    return field(default_factory=kind, metadata={"help": help})


def check(condition: bool, message: str) -> None:
    """Raise `ConfigError` unless the condition holds."""
    if not condition:
        raise ConfigError(message)
