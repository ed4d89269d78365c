"""`/health/ready` under vLLM: whether the owner and the model both answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi.responses import JSONResponse

from lightmem_engine.client import EngineClient
from lightmem_engine.errors import LightMemError
from lightmem_engine.runtime.complain import complain

SECONDS = 5.0

logger = logging.getLogger(__name__)


async def readiness(client: EngineClient, model: Any) -> JSONResponse:
    """200 if both answer and what is told can be stored, else 503; with the checks. model: vLLM's engine client."""
    engine, served = await asyncio.gather(_engine(client), _model(model))
    checks = {"engine": engine, "model": served}
    well = all(checks.values())
    return JSONResponse({"ready": well, "checks": checks}, 200 if well else 503)


async def _engine(client: EngineClient) -> bool:
    try:
        async with asyncio.timeout(SECONDS):
            return bool((await client.owner())["sound"])
    except (LightMemError, TimeoutError):
        return False


async def _model(model: Any) -> bool:
    """vLLM says that its engine is dead by an exception of its own, which has no name that all releases share."""
    try:
        async with asyncio.timeout(SECONDS):
            await model.check_health()
    except Exception as error:  # noqa: BLE001 - whatever it is, the model does not answer
        complain(logger, "the model is not well", error)
        return False
    return True
