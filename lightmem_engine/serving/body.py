"""JSON from strangers: parsed strictly, so that nothing odd travels further."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from lightmem_engine.errors import InvalidInput
from lightmem_engine.serving.tracing import span

MAX_DEPTH = 100


def parse(raw: bytes) -> Any:
    """The value of a JSON text.

    Raises `InvalidInput` for what is no JSON, for NaN and infinities, for half a surrogate pair (it cannot be
    stored as UTF-8), and for values nested deeper than 100.
    """
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse)
        if b"\\ud" in raw or b"\\uD" in raw:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput("the body is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise InvalidInput("the body has half a surrogate pair in a string") from error
    except RecursionError as error:
        raise InvalidInput(f"the body is nested deeper than {MAX_DEPTH}") from error
    except json.JSONDecodeError as error:
        raise InvalidInput(f"the body is no JSON: {error.msg} at character {error.pos}") from error
    except ValueError as error:  # an integer of thousands of digits, a constant
        raise InvalidInput(f"the body has an unusable number: {error}") from error
    _check(value)
    return value


def parse_object(raw: bytes, content_type: str) -> dict[str, Any]:
    """The JSON object of a request that says it sends one."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise InvalidInput(f"content-type must be application/json, not {kind or 'absent'}")
    value = parse(raw)
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    return value


class StrictRoute(APIRoute):
    """A route whose JSON body goes through `parse`, and which has a span of its own."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's, with our reading of bodies."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            with span(self.name):
                return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse(await self.body())


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _check(root: Any) -> None:
    """Depth and finite numbers, without recursion."""
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise InvalidInput("the body has a number beyond what a double holds")
        if not inner:
            return
        level = inner
    raise InvalidInput(f"the body is nested deeper than {MAX_DEPTH}")
