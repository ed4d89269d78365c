"""OpenTelemetry spans where its API is installed; without it, nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

_INSTALLED = find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None


@contextmanager
def span(name: str) -> Iterator[None]:
    """A span around the block. Attributes are left out on purpose: they would carry names or text."""
    if not _INSTALLED:
        yield
        return
    from opentelemetry import trace

    with trace.get_tracer("lightmem_engine").start_as_current_span(f"lightmem.{name}"):
        yield
