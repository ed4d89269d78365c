"""What `lightmem_engine` offers to a program that imports it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from pathlib import Path

import pytest

import lightmem_engine
from lightmem_engine import AsyncMemory, EngineConfig, InvalidInput, Memory, Message, StoreError, errors
from lightmem_engine.config import replace
from tests.support.process import python

STUBS = {"embedder.stub": True, "classifier.source": "stub", "lm.backend": "stub"}


def _config(tmp_path: Path) -> EngineConfig:
    return replace(EngineConfig(data_dir=str(tmp_path / "data")), **STUBS)


def test_exactly_these_names_are_public() -> None:
    nouns = {"Memory", "AsyncMemory", "EngineConfig", "Message", "MemoryEntry", "Hit"}
    tree = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert set(lightmem_engine.__all__) == nouns | tree
    assert set(lightmem_engine.__all__) <= set(dir(lightmem_engine))


@pytest.mark.parametrize("name", lightmem_engine.__all__)
def test_every_public_name_can_be_had_and_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(lightmem_engine, name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Memroy'"):
        lightmem_engine.Memroy  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, lightmem_engine\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'fastapi', 'faiss', 'numpy', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "from lightmem_engine import Memory, AsyncMemory, EngineConfig, Message, Hit, LightMemError\n"
        "print(sorted({'torch', 'transformers', 'pydantic', 'fastapi'} & set(sys.modules)))\n"
    )
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("[]\n[]\n", "")


def test_the_two_faces_offer_the_same() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Memory) | {"open", "engine"} == public(AsyncMemory)


def test_memory_from_a_plain_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from lightmem_engine import EngineConfig, Memory\n"
        "from lightmem_engine.config import replace\n"
        "stubs = {'embedder.stub': True, 'classifier.source': 'stub', 'lm.backend': 'stub'}\n"
        "config = replace(EngineConfig(data_dir=sys.argv[1]), **stubs)\n"
        "with Memory(config) as memory:\n"
        "    memory.add({'role': 'user', 'content': 'The parrot is called Zazu.'}, user_id='ann', wait=True)\n"
        "    print(memory.search('parrot', user_id='ann')[0].text)\n"
    )
    done = python("-W", "error", str(script), str(tmp_path / "data"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Zazu" in done.stdout


def test_all_methods_of_the_sync_face(tmp_path: Path) -> None:
    with Memory(_config(tmp_path)) as memory:
        ids = memory.add([Message("user", "The parrot is called Zazu.", id="m1")], user_id="ann", session_id="s")
        assert ids == ["m1"]
        assert memory.search("parrot", user_id="ann", top_k=1)[0].source_ids == ("m1",)
        assert memory.flush(user_id="ann")["pending"] == 0
        assert memory.stats()["messages"] == 1
        assert memory.search("parrot", user_id="bob") == []
        assert "parrot" in memory.chat([{"role": "user", "content": "Which parrot?"}], user_id="ann", session_id="s")
        assert memory.stats(user_id="ann")["messages"] == 3


def test_closing_twice_is_harmless_and_use_after_close_is_an_error(tmp_path: Path) -> None:
    before = threading.active_count()
    memory = Memory(_config(tmp_path))
    memory.close()
    memory.close()
    assert threading.active_count() == before
    for use in (
        lambda: memory.add([], user_id="u"),
        lambda: memory.search("x", user_id="u"),
        memory.flush,
        memory.stats,
    ):
        with pytest.raises(StoreError, match="closed"):
            use()
    with Memory(_config(tmp_path)) as again:
        assert again.stats()["messages"] == 0


def test_two_owners_of_one_directory_and_a_failed_start_leaves_nothing(tmp_path: Path) -> None:
    with Memory(_config(tmp_path)):
        before = threading.active_count()
        with pytest.raises(StoreError, match="in use by process"):
            Memory(_config(tmp_path))
        assert threading.active_count() == before


def test_threads_share_one_memory(tmp_path: Path) -> None:
    with Memory(_config(tmp_path)) as memory:

        def work(number: int) -> None:
            memory.add({"role": "user", "content": f"fact {number}"}, user_id="ann")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert memory.flush()["messages"] == 8


async def test_the_async_face_before_it_is_open_and_after(tmp_path: Path) -> None:
    memory = AsyncMemory(_config(tmp_path))
    with pytest.raises(StoreError, match="not open"):
        await memory.stats()
    async with memory:
        assert await memory.open() is memory
        added = await asyncio.gather(
            *(memory.add({"role": "user", "content": f"fact {n}"}, user_id="ann") for n in range(20))
        )
        assert len({id for ids in added for id in ids}) == 20
    await memory.close()
    with pytest.raises(StoreError, match="not open"):
        await memory.stats()


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ("hello", "a message or a list"),
        (["hello"], "message 0 must be an object"),
        ([{"role": "user", "content": "x"}, {"content": "y"}], "message 1 has no role"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": "x", "colour": "red"}], "unknown fields: colour"),
        ([{"role": "user", "content": 7}], "must be a text"),
        ([{"role": "boss", "content": "x"}], "role must be one of"),
        ([{"role": "user", "content": " "}], "content is empty"),
        ([{"role": "user", "content": "x", "timestamp": "soon"}], "message 0"),
        ([], "empty"),
    ],
)
async def test_bad_messages_are_named_and_nothing_is_stored(tmp_path: Path, messages: object, complaint: str) -> None:
    async with AsyncMemory(_config(tmp_path)) as memory:
        with pytest.raises(InvalidInput, match=complaint):
            await memory.add(messages, user_id="ann")  # type: ignore[arg-type]
        assert (await memory.stats())["messages"] == 0
