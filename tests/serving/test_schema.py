"""Requests made up from the OpenAPI description: whatever they are, no route answers with a failure of its own."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from tests.support.server import Server


@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
def test_no_request_breaks_a_route(server: Server, mode: schemathesis.GenerationMode) -> None:
    description = httpx.get(f"{server.url}/openapi.json", timeout=30).json()
    schema = schemathesis.openapi.from_dict(description)
    tried = [(method.upper(), path) for path, methods in description["paths"].items() for method in methods]
    assert ("POST", "/v1/chat/completions") in tried
    for method, path in tried:
        operation = schema[path][method]
        takes_anything = operation.body or operation.query or operation.path_parameters
        if mode is schemathesis.GenerationMode.POSITIVE or takes_anything:
            _try(server, operation, mode)


def _try(server: Server, operation: Any, mode: schemathesis.GenerationMode) -> None:
    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        answer = case.call(base_url=server.url, timeout=30)
        assert answer.status_code < 500, answer.text
        assert "Traceback" not in answer.text

    try:
        send()
    except Unsatisfiable:  # a path of any words has no wrong form
        assert mode is schemathesis.GenerationMode.NEGATIVE
        assert operation.path_parameters
