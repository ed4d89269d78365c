"""The container files, as far as they can be checked without an engine that builds them."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.harness import ROOT
from lightmem_engine.cli.backend import choose
from lightmem_engine.cli.main import build_parser
from lightmem_engine.config_loader import load
from lightmem_engine.serving.keys import KeyRing, clear_keys
from tests.support.process import python
from tests.support.vllm_server import HAS_VLLM, NO_VLLM, environment

yaml: Any = importlib.import_module("yaml")  # comes with transformers

DOCKER = ROOT / "docker"
COMPOSE = sorted(DOCKER.glob("compose*.yaml"))
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
IMAGE = "vllm/vllm-openai:v0.32.0"


def _words(words: list[str]) -> list[str]:
    """A command with its variables at their defaults."""
    return [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in words]


def _json_after(word: str, text: str) -> list[str]:
    found: list[str] = json.loads(re.findall(rf"^\s*{word} (\[.*\])$", text, re.MULTILINE)[-1])
    return found


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_names_what_exists(path: Path) -> None:
    tree = yaml.safe_load(path.read_text("utf-8"))
    assert set(tree) == {"services", "secrets", "volumes"}
    assert tree["secrets"]["keys"]["file"] == "keys.toml"
    for service in tree["services"].values():
        assert ("build" in service) != ("image" in service)
        if "build" in service:
            context = (path.parent / service["build"]["context"]).resolve()
            assert (context / service["build"]["dockerfile"]).is_file()
        else:
            assert service["image"] == IMAGE
        for volume in service["volumes"]:
            name, _, target = volume.partition(":")
            assert name in tree["volumes"]
            assert target in {"/data", "/models"}
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert set(service.get("secrets", ())) <= set(tree["secrets"])
        assert all(other in tree["services"] for other in service.get("depends_on", ()))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_is_pinned_and_names_what_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    base = re.findall(r"^FROM (\S+)$", text, re.MULTILINE)
    assert len(base) == 1
    assert ":" in base[0]
    assert "latest" not in base[0]
    assert "VOLUME /data" in text
    check = _json_after("CMD", text)
    assert (ROOT / check[-1]).is_file()
    assert _json_after("ENTRYPOINT", text)[1] == "serve"
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in shlex.split(line)[:-1])


def test_what_is_copied_leaves_secrets_and_environments_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert {".git", ".venv", "docker/keys.toml"} <= set(ignored)
    assert "docker/keys.toml" in (ROOT / ".gitignore").read_text("utf-8").split()


def test_the_gateways_command_is_one_that_we_take() -> None:
    tree = yaml.safe_load((DOCKER / "compose.gateway.yaml").read_text("utf-8"))
    words = [*_json_after("ENTRYPOINT", (DOCKER / "Dockerfile.cpu").read_text("utf-8"))[1:]]
    words += _words(tree["services"]["memory"]["command"])
    assert not choose(words[1:]).is_vllm
    args = build_parser().parse_args(words)
    assert args.upstream == "http://model:8000/v1"
    assert load(None, {}, args.set).config.lm.send_priority


@pytest.mark.skipif(not HAS_VLLM, reason=NO_VLLM)
def test_vllms_command_is_one_that_vllm_takes(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text((DOCKER / "keys.example.toml").read_text("utf-8"), "utf-8")
    keys.chmod(0o600)
    tree = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))
    words = _json_after("ENTRYPOINT", (DOCKER / "Dockerfile.cuda").read_text("utf-8"))[2:]
    words += _words(tree["services"]["engine"]["command"])
    words = [str(keys) if word == "/run/secrets/keys" else word for word in words]
    assert choose(words).is_vllm
    line = [[*words, "--data-dir", str(tmp_path / "data")], {}]
    path = {"PYTHONPATH": environment(tmp_path)["PYTHONPATH"]}
    done = python("-m", "tests.support.vllm_arguments", input=json.dumps([line]), env=path, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    planned = json.loads(done.stdout.splitlines()[-1])[0]
    assert "error" not in planned, planned
    assert planned["args"]["model_tag"] == "Qwen/Qwen3-8B"
    assert planned["args"]["host"] == "0.0.0.0"


def test_the_example_keys_are_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text((DOCKER / "keys.example.toml").read_text("utf-8"), "utf-8")
    path.chmod(0o600)
    assert len(clear_keys(str(path))) == 2
    caller = KeyRing(str(path)).find("change-me-app")
    assert caller is not None
    assert not caller.admin


def test_the_health_check_fails_where_nobody_listens() -> None:
    code = f"import sys; sys.path.insert(0, {str(DOCKER)!r}); import ready; ready.URL = 'http://127.0.0.1:9/'; "
    assert python("-c", code + "sys.exit(ready.main())").returncode == 1
    assert sys.version_info >= (3, 11)
