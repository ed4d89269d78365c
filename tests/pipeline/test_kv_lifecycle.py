"""KV caches end with what they were made of: in the same transaction, and their files right after."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.async_memory import AsyncMemory
from lightmem_engine.kv.files import key_of
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.stores import chats
from lightmem_engine.types import EntryChange, Scope
from tests.kv.chains import files
from tests.models import tiny_qwen
from tests.models.keeping import Slow, count_forward
from tests.support.memory import assistant, eventually, quick_config, user
from tests.support.process import python

ANN = Scope("ann")
# Two chunks in place and half of a third, under a manifest that nobody was told of.
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.kv.chains import chain, open_store, put

store = open_store(Path(sys.argv[1]))
put(store, "untold", chain(range(32)))
store.draft("0").write_bytes(b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""
SYSTEM = {"role": "system", "content": "You remember what people tell you. " * 6}


class Talk:
    """A memory over a small Qwen, and its kept caches."""

    def __init__(self, memory: AsyncMemory, directory: Path) -> None:
        self.memory = memory
        self.engine = memory.engine
        self.root = directory / "kv"
        self.path = directory / "memory.db"
        lm = self.engine.lm
        assert isinstance(lm, QwenModel)
        assert lm.kept is not None
        self.model, self.tier = lm, lm.kept
        lm.kept.rates = Slow(tokens=1.0, bytes=1e12)

    async def say(self, history: list[dict[str, Any]], words: str, who: str = "ann", session: str = "s") -> str:
        history.append(user(words))
        reply = await self.memory.chat([SYSTEM, *history], user_id=who, session_id=session, max_tokens=4)
        history.append(assistant(reply))
        await self.settle()
        return reply

    async def settle(self) -> None:
        from tests.models.keeping import settle

        await settle(self.model, self.tier)
        await self.engine._kept.settle()

    def manifests(self, table: str = "kv_manifest") -> int:
        connection = sqlite3.connect(self.path)
        try:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        finally:
            connection.close()

    def lengths(self) -> list[int]:
        """Tokens of the manifests, in the order of their messages."""
        connection = sqlite3.connect(self.path)
        try:
            return [n for (n,) in connection.execute("SELECT num_tokens FROM kv_manifest ORDER BY link")]
        finally:
            connection.close()

    def kept_words(self) -> str:
        """What all chunks on disk were made of."""
        keys = [key for path in self.files if (key := key_of(path))]
        tokens = [token for key in keys for token in [*self.tier.store.files.peek(key).tolist(), 0]]
        return str(self.model._tokenizer.decode(tokens))

    @property
    def files(self) -> list[Path]:
        return files(self.root)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_qwen.save(tmp_path / "model")


@asynccontextmanager
async def talking(tmp_path: Path, checkpoint: Path, **options: Any) -> AsyncIterator[Talk]:
    directory = tmp_path / "data"
    settings = {
        "lm.model": str(checkpoint),
        "extract.mode": "extractive",
        "kv.min_tokens": 8,
        "kv.chunk_tokens": 16,
        "kv.min_free_bytes": 0,
        "lm.cache_bytes": 0,
        **options,
    }
    async with AsyncMemory(quick_config(directory, **settings)) as memory:
        yield Talk(memory, directory)


async def test_a_conversation_is_kept_and_goes_on_after_a_restart(tmp_path: Path, checkpoint: Path) -> None:
    history: list[dict[str, Any]] = []
    async with talking(tmp_path, checkpoint) as talk:
        await talk.say(history, "My sister Maja moved to Lisbon.")
        await talk.say(history, "Where does she live?")
        assert talk.manifests() == 2
    async with talking(tmp_path, checkpoint) as talk:
        counts = count_forward(talk.model)
        await talk.say(history, "And my brother?")
        counters = talk.tier.store.counters
        assert counters.get("hits") == 1
        assert counts[0] == counters.get("tokens_recomputed") < counters.get("hit_tokens")
        assert talk.manifests() == 2  # of a conversation the newest two are kept


async def test_an_edit_ends_what_covers_the_edited_message(tmp_path: Path, checkpoint: Path) -> None:
    history: list[dict[str, Any]] = []
    async with talking(tmp_path, checkpoint) as talk:
        await talk.say(history, "My sister Maja moved to Lisbon.")
        await talk.say(history, "Where does the canary live?")
        assert "Where does the" in talk.kept_words()
        edited = history[:2]
        await talk.say(edited, "What is her name?")
        assert "Where does the" not in talk.kept_words()
        assert "What is" in talk.kept_words()
        assert talk.manifests() == 2
        assert talk.manifests("kv_gone") == 0


async def test_a_regenerated_reply_keeps_the_cache_of_its_question(tmp_path: Path, checkpoint: Path) -> None:
    history: list[dict[str, Any]] = []
    async with talking(tmp_path, checkpoint) as talk:
        await talk.say(history, "My sister Maja moved to Lisbon.")
        again: list[dict[str, Any]] = []
        await talk.say(again, "My sister Maja moved to Lisbon.")
        assert talk.tier.store.counters.get("hits") == 1
        assert talk.manifests() == 1


async def test_a_deleted_entry_ends_the_conversation_that_told_it(tmp_path: Path, checkpoint: Path) -> None:
    history: list[dict[str, Any]] = []
    other: list[dict[str, Any]] = []
    async with talking(tmp_path, checkpoint) as talk:
        await talk.say(other, "The boiler code is 4711.", session="t")
        await talk.say(history, "My sister Maja moved to Lisbon.")
        await talk.memory.flush(user_id="ann")
        assert talk.manifests() == 2
        (entry,) = [one for one in await talk.memory.get_all(user_id="ann") if "Lisbon" in one.text]
        await talk.memory.delete(entry.id, user_id="ann")
        assert talk.manifests() == 1
        assert talk.manifests("kv_gone") == 0
        rest = len(talk.files)
        await talk.memory.delete_all(user_id="ann")
        assert rest > 0
        assert talk.files == []


async def test_a_changed_entry_ends_the_sessions_that_show_it(tmp_path: Path, checkpoint: Path) -> None:
    async with talking(tmp_path, checkpoint) as talk:
        await talk.memory.add([user("My sister Maja moved to Lisbon.")], user_id="ann", wait=True)
        await talk.say([], "Where does my sister Maja live?", session="shows")
        assert talk.manifests() == 1
        (entry,) = [one for one in await talk.memory.get_all(user_id="ann") if "Lisbon" in one.text]
        await talk.engine.update(ANN, entry.id, EntryChange(text="My sister Maja moved to Porto."))
        await talk.settle()
        assert talk.manifests() == 0
        assert talk.files == []


async def test_an_erased_user_leaves_no_chunk_and_others_keep_theirs(tmp_path: Path, checkpoint: Path) -> None:
    async with talking(tmp_path, checkpoint) as talk:
        await talk.say([], "My sister Maja moved to Lisbon.")
        hers = set(talk.files)
        await talk.say([], "My sister Maja moved to Lisbon.", who="bob")
        his = set(talk.files) - hers
        assert len(his) == len(hers) > 3
        await talk.memory.delete_all(user_id="ann")
        assert set(talk.files) == his
        assert talk.manifests("kv_gone") == 0
        await talk.say([], "My sister Maja moved to Lisbon.")
        assert talk.tier.store.counters.get("hits") == 0  # a new salt finds nothing that was there before


async def test_an_erasure_takes_what_a_killed_process_had_kept_and_not_told(tmp_path: Path, checkpoint: Path) -> None:
    async with talking(tmp_path, checkpoint) as talk:
        await talk.say([], "My sister Maja moved to Lisbon.")
        await talk.say([], "My canary is Kim.", who="bob")
        before = talk.files
        done = await asyncio.to_thread(python, "-c", KILLED, str(talk.root))
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert len(talk.files) == len(before) + 3
        await talk.memory.delete_all(user_id="ann")
        assert talk.files
        assert set(talk.files) < set(before)
        assert talk.manifests() == 1


async def test_users_of_a_tenant_may_share_and_an_erasure_leaves_what_the_other_holds(
    tmp_path: Path, checkpoint: Path
) -> None:
    async with talking(tmp_path, checkpoint, **{"kv.salt": "tenant"}) as talk:
        await talk.say([], "My sister Maja moved to Lisbon.")
        count = len(talk.files)
        await talk.say([], "My sister Maja moved to Lisbon.", who="bob")
        assert talk.tier.store.counters.get("hits") == 1
        assert len(talk.files) == count
        await talk.memory.delete_all(user_id="ann")
        assert len(talk.files) == count
        await talk.memory.delete_all(user_id="bob")
        assert talk.files == []


async def test_what_nobody_uses_expires(tmp_path: Path, checkpoint: Path) -> None:
    async with talking(tmp_path, checkpoint) as talk:
        await talk.say([], "My sister Maja moved to Lisbon.")
        keeper = talk.engine._kept.keeper
        assert keeper is not None
        before = keeper._clock.now() + timedelta(seconds=1)

        def expire(connection: sqlite3.Connection) -> None:
            from lightmem_engine.stores import kv_manifests

            assert kv_manifests.is_overdue(connection, before)
            kv_manifests.expire(connection, before)

        await talk.engine._db.write(expire)
        await talk.settle()
        assert talk.manifests() == 0
        assert talk.files == []


async def test_what_ends_is_not_found_from_the_commit_on(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even while its files cannot be removed yet; an erasure says so instead of answering."""
    from lightmem_engine.errors import StoreError
    from lightmem_engine.kv.files import ChunkFiles

    async with talking(tmp_path, checkpoint) as talk:
        await talk.say([], "My sister Maja moved to Lisbon.")
        monkeypatch.setattr(ChunkFiles, "unlink", lambda self, key: False)
        await talk.engine._db.write(lambda connection: chats.forget_user(connection, ANN))
        assert talk.manifests() == 0
        assert talk.tier.store._allowed == set()
        with pytest.raises(StoreError, match="could not be removed"):
            await talk.memory.delete_all(user_id="ann")
        assert talk.files
        monkeypatch.undo()
        await talk.memory.delete_all(user_id="ann")
        assert talk.files == []


async def test_a_start_makes_manifests_and_files_agree(tmp_path: Path, checkpoint: Path) -> None:
    async with talking(tmp_path, checkpoint) as talk:
        await talk.say([], "My sister Maja moved to Lisbon.", session="a")
        await talk.say([], "The boiler code is 4711.", session="b")
    connection = sqlite3.connect(tmp_path / "data" / "memory.db")
    connection.execute("DELETE FROM kv_manifest WHERE id = (SELECT min(id) FROM kv_manifest)")
    connection.execute("DELETE FROM kv_gone")  # as if the process had died before it was noted, and worse
    connection.commit()
    connection.close()
    before = len(files(tmp_path / "data" / "kv"))
    async with talking(tmp_path, checkpoint) as talk:
        assert 0 < len(talk.files) < before
        assert talk.manifests() == 1
    for path in (tmp_path / "data" / "kv" / "chunks").rglob("*.kv"):
        path.unlink()
    async with talking(tmp_path, checkpoint) as talk:
        assert talk.manifests() == 0
        assert talk.files == []


async def test_warm_keeps_words_alone_and_reads_them_again(tmp_path: Path, checkpoint: Path) -> None:
    options = {"kv.mode": "warm", "lm.cache_bytes": 1 << 20}
    history: list[dict[str, Any]] = []
    async with talking(tmp_path, checkpoint, **options) as talk:
        await talk.say(history, "My sister Maja moved to Lisbon.")
        assert talk.manifests() == 1
        assert talk.files == []
        (known,) = talk.lengths()
    async with talking(tmp_path, checkpoint, **options) as talk:
        keeper = talk.engine._kept.keeper
        assert keeper is not None
        assert keeper._warming is not None
        await keeper._warming
        counts = count_forward(talk.model)
        await talk.say(history, "And my brother?")
        assert counts[0] < talk.lengths()[-1] + 20 - known  # 20: more than the marks of the answer
        await talk.memory.delete_all(user_id="ann")
        assert talk.manifests() == 0


@pytest.mark.parametrize(("cache_bytes", "mode"), [(1 << 20, "warm"), (0, "off")])
async def test_a_disk_that_is_found_slow_at_the_start_is_not_used(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, cache_bytes: int, mode: str
) -> None:
    monkeypatch.setattr("lightmem_engine.models.qwen.load_rate", lambda store, storage: 1000.0)  # bytes a second
    options = {"lm.cache_bytes": cache_bytes}
    history: list[dict[str, Any]] = []
    async with talking(tmp_path, checkpoint, **options) as talk:
        stats = await talk.memory.kv_stats()
        assert (stats["configured"], stats["mode"]) == ("auto", mode)
        assert "loading takes" in stats["reason"]
        await talk.say(history, "My sister Maja moved to Lisbon.")
        assert talk.files == []
        assert talk.manifests() == (mode == "warm")
    async with talking(tmp_path, checkpoint, **options) as talk:
        keeper = talk.engine._kept.keeper
        assert keeper is not None
        assert (keeper._warming is not None) == (mode == "warm")
        assert await talk.say(history, "And my brother?") is not None


async def test_what_was_measured_to_pay_is_kept_and_said(tmp_path: Path, checkpoint: Path) -> None:
    async with talking(tmp_path, checkpoint, **{"kv.storage": "int8"}) as talk:
        await talk.say([], "My sister Maja moved to Lisbon.")
        assert talk.files
        stats = await talk.memory.kv_stats()
        assert (stats["configured"], stats["mode"], stats["storage"]) == ("auto", "persist", "int8")
        assert stats["costs_more_than_it_saves"] is False
        assert stats["tokens_per_second"] > 0


async def test_turning_it_off_removes_what_was_kept(tmp_path: Path, checkpoint: Path) -> None:
    async with talking(tmp_path, checkpoint) as talk:
        await talk.say([], "My sister Maja moved to Lisbon.")
        assert talk.files
    config = quick_config(tmp_path / "data", **{"lm.model": str(checkpoint), "kv.mode": "off"})
    async with AsyncMemory(config) as memory:
        assert (await memory.kv_stats())["mode"] == "off"
        assert not (tmp_path / "data" / "kv").exists()
        assert await memory.chat([user("Hello.")], user_id="ann", max_tokens=2) is not None
    connection = sqlite3.connect(tmp_path / "data" / "memory.db")
    assert connection.execute("SELECT count(*) FROM kv_gone").fetchone() == (0,)
    connection.close()


async def test_a_directory_that_cannot_be_used_turns_it_off_with_its_reason(tmp_path: Path, checkpoint: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, no folder")
    config = quick_config(tmp_path / "data", **{"lm.model": str(checkpoint), "kv.directory": str(blocked)})
    async with AsyncMemory(config) as memory:
        stats = await memory.kv_stats()
        assert stats["mode"] == "off"
        assert "cannot be kept" in stats["reason"]
        assert await memory.chat([user("Hello.")], user_id="ann", max_tokens=2) is not None


async def test_purge_takes_caches_and_no_memory(tmp_path: Path, checkpoint: Path) -> None:
    async with talking(tmp_path, checkpoint) as talk:
        await talk.say([], "My sister Maja moved to Lisbon.")
        await talk.say([], "My sister Maja moved to Lisbon.", who="bob")
        assert await talk.memory.kv_purge(user_id="bob") == 1
        assert talk.manifests() == 1
        assert await talk.memory.kv_verify() == {"ok": len(talk.files), "damaged": 0, "unreadable": 0}
        assert await talk.memory.kv_purge() == 1
        assert talk.files == []
        assert (await talk.memory.stats())["messages"] == 4


async def _told_much(talk: Talk) -> None:
    for number in range(4):
        words = f"Parcel {number} went from Boston to Denver and weighs {number * 7} grams. " * 6
        await talk.memory.add([user(words), assistant("Noted.")], user_id="ann", session_id="s")


WAITING = {"extract.mode": "llm", "segment.max_tokens": 64, "segment.lookahead": 1, "short_term.threshold": 100_000}
WAITING |= {"short_term.idle_seconds": 1e6, "extract.max_tokens": 64, "runtime.max_attempts": 1}


async def _segments(talk: Talk) -> int:
    await talk.settle()
    connection = sqlite3.connect(talk.path)
    try:
        sql = "SELECT count(*) FROM kv_manifest WHERE segment IS NOT NULL"
        return int(connection.execute(sql).fetchone()[0])
    finally:
        connection.close()


async def test_the_extraction_prompt_of_closed_segments_is_read_in_advance_and_ends_with_extraction(
    tmp_path: Path, checkpoint: Path
) -> None:
    async with talking(tmp_path, checkpoint, **WAITING) as talk:
        await _told_much(talk)

        async def is_kept() -> bool:
            return await _segments(talk) > 0

        await eventually(is_kept)
    async with talking(tmp_path, checkpoint, **WAITING) as talk:  # the restart counts as silence: it is extracted now
        await talk.memory.flush(user_id="ann")
        assert talk.tier.store.counters.get("hit_tokens") > 100
        assert await _segments(talk) == 0
        assert talk.files == []


async def test_a_segment_whose_message_is_deleted_has_no_cache_any_more(tmp_path: Path, checkpoint: Path) -> None:
    async with talking(tmp_path, checkpoint, **WAITING) as talk:
        await _told_much(talk)

        async def is_kept() -> bool:
            return await _segments(talk) > 0

        await eventually(is_kept)
        await talk.memory.delete_all(user_id="ann")
        assert await _segments(talk) == 0
        assert talk.files == []
