"""Finding checkpoints and knowing exactly which weights they hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from lightmem_engine.errors import BackendUnavailable, ConfigError, CorruptStore
from lightmem_engine.models import checkpoint
from lightmem_engine.models.checkpoint import locate
from lightmem_engine.models.packaged import MINILM_SHA256, packaged_minilm
from tests.models import tiny_encoder


def test_the_name_depends_on_the_weights_not_on_the_place(tmp_path: Path) -> None:
    one = locate(str(tiny_encoder.save(tmp_path / "a" / "tiny", seed=1)))
    moved = locate(str(shutil.copytree(one.directory, tmp_path / "b" / "tiny")))
    other = locate(str(tiny_encoder.save(tmp_path / "c" / "tiny", seed=2)))
    assert one.name == moved.name
    assert one.name.startswith("tiny@")
    assert one.name != other.name


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no transformers checkpoint"):
        locate(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no weights"):
        locate(str(tmp_path))
    with pytest.raises(ConfigError, match="neither a folder"):
        locate("/no/such/folder/anywhere")


def test_a_hub_that_says_no_and_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> str:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(checkpoint, "snapshot_download", unknown)
    with pytest.raises(ConfigError, match="neither a folder"):
        locate("nobody/nothing")
    monkeypatch.setattr(checkpoint, "snapshot_download", unreachable)
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        locate("nobody/nothing")


def test_several_weight_files_have_one_digest(tmp_path: Path) -> None:
    folder = tiny_encoder.save(tmp_path / "tiny")
    (folder / "model-2.safetensors").write_bytes(b"one")
    first = locate(str(folder)).digest
    (folder / "model-2.safetensors").write_bytes(b"two")
    assert locate(str(folder)).digest != first


def test_damaged_json_is_named(tmp_path: Path) -> None:
    found = locate(str(tiny_encoder.save(tmp_path / "tiny")))
    assert found.read_json("absent.json") == {}
    (found.directory / "sentence_bert_config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        found.read_json("sentence_bert_config.json")


def test_the_packaged_weights_are_the_published_ones() -> None:
    found = packaged_minilm()
    assert found.digest == MINILM_SHA256
    assert found.name == f"all-MiniLM-L6-v2@{MINILM_SHA256[:12]}"


def test_other_weights_in_their_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptStore, match="SHA-256"):
        packaged_minilm(tiny_encoder.save(tmp_path / "tiny"))
