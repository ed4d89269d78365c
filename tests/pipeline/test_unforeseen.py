"""A failure that nobody foresaw concerns one user, or one session of one user; the stages go on for everybody else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.errors import ModelError
from lightmem_engine.memory import AsyncMemory
from lightmem_engine.pipeline.extract import ExtractStage
from lightmem_engine.pipeline.sense import SenseStage
from tests.support.memory import everything, quick_config, source_ids, user


def _break(monkeypatch: pytest.MonkeyPatch, stage: type, method: str, of: Any) -> None:
    plain = getattr(stage, method)

    def broken(self: Any, *arguments: Any, **options: Any) -> Any:
        if of(*arguments):
            raise RuntimeError("a kanarisecret defect")
        return plain(self, *arguments, **options)

    monkeypatch.setattr(stage, method, broken)


async def test_a_session_that_cannot_be_segmented_is_parked_with_its_words_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, SenseStage, "_segment", lambda connection, scope, session: session == "odd")
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add(user("The parrot is green.", id="p"), user_id="ann", session_id="odd")
        await memory.add(user("The boat is red.", id="b"), user_id="ann", session_id="plain")
        await memory.add(user("The tea is hot.", id="t"), user_id="bob", session_id="plain")
        stats = await memory.flush()
        (parked,) = stats["parked"]
        assert (parked["stage"], parked["user_id"]) == ("extract", "ann")
        assert parked["error"] == "RuntimeError: a kanarisecret defect"
        assert stats["pending"] == 0
        states = {hit.source_ids: hit.state for hit in await everything(memory, "ann")}
        assert states == {("p",): "pending", ("b",): "active"}
        assert (await memory.search("parrot", user_id="ann"))[0].source_ids == ("p",)
        assert source_ids(await everything(memory, "bob")) == ["t"]
        await memory.add(user("The parrot is blue.", id="q"), user_id="ann", session_id="odd")
        assert len((await memory.flush())["parked"]) == 2


@pytest.mark.parametrize(
    ("stage", "method"),
    [(SenseStage, "run"), (SenseStage, "_next"), (SenseStage, "close_sessions"), (ExtractStage, "run")],
)
async def test_a_user_on_whom_a_stage_fails_holds_up_nobody(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stage: type,
    method: str,
) -> None:
    def of_ann(*arguments: Any) -> bool:
        return any(getattr(one, "user", "") == "ann" for given in arguments for one in (given, *_items(given)))

    caplog.set_level(logging.INFO)
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        with monkeypatch.context() as patch:
            _break(patch, stage, method, of_ann)
            for n in range(3):
                await memory.add(user(f"The parrot {n} is green.", id=f"p{n}"), user_id="ann", session_id="s")
                await memory.add(user(f"The tea {n} is hot.", id=f"t{n}"), user_id="bob", session_id="s")
            with pytest.raises(ModelError, match="RuntimeError"):
                await memory.flush(user_id="ann")
            stats = await memory.flush(user_id="bob")
            assert (stats["pending"], stats["entries"]) == (0, 3)
            assert any(record.levelno == logging.CRITICAL for record in caplog.records)
            assert "kanari" not in caplog.text
        stats = await memory.flush(user_id="ann")
        assert (stats["pending"], stats["entries"], stats["parked"]) == (0, 3, [])


def _items(given: Any) -> Any:
    return given if isinstance(given, list | tuple) else ()
