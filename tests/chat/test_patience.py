"""What is woken later, and what is not."""

from __future__ import annotations

import asyncio

from lightmem_engine.chat.patience import Patience
from lightmem_engine.types import Scope

ANN, BOB = Scope("ann"), Scope("bob")


async def test_everybody_is_woken_and_nobody_at_once() -> None:
    woken: list[tuple[Scope, str]] = []
    done = asyncio.Event()

    def wake(scope: Scope, session: str) -> None:
        woken.append((scope, session))
        if len(woken) == 3:
            done.set()

    patience = Patience(wake, 0.01)
    for scope, session in ((ANN, "a"), (BOB, "b"), (ANN, "a")):
        patience(scope, session)
    assert woken == []
    await asyncio.wait_for(done.wait(), 30)
    assert woken == [(ANN, "a"), (BOB, "b"), (ANN, "a")]


async def test_nobody_is_woken_after_the_end() -> None:
    woken: list[str] = []
    patience = Patience(lambda _, session: woken.append(session), 0.0)
    patience(ANN, "a")
    patience.close()
    patience(ANN, "b")
    await asyncio.sleep(0.01)
    assert woken == []
