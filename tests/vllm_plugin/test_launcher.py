"""Command lines: vLLM's options and ours, and what is refused. vLLM parses; nothing is served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.vllm_server import HAS_VLLM, NO_VLLM, environment
from tests.vllm_plugin.conftest import keys_file

pytestmark = pytest.mark.skipif(not HAS_VLLM, reason=NO_VLLM)

Line = tuple[list[str], dict[str, str]]
OTHER = {"kv_connector": "Other", "kv_role": "kv_both"}
THEIRS: list[dict[str, Any]] = [
    OTHER,
    {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [OTHER, {**OTHER, "kv_connector": "Third"}]},
    },
    {**OTHER, "kv_role": "kv_producer"},
]
REFUSED: list[tuple[Line, str]] = [
    ((["--no-such-flag", "1"], {}), "unrecognized arguments: --no-such-flag"),
    ((["--max-num-seqs", "many"], {}), "max-num-seqs"),
    ((["--grpc"], {}), "--grpc: its requests bypass the memory"),
    ((["--headless"], {}), "--headless"),
    ((["--uds", "/tmp/x.sock"], {}), "--uds"),
    ((["--port", "0"], {}), "--port 0"),
    ((["--api-server-count", "0"], {}), "--api-server-count"),
    (([], {"VLLM_USE_RUST_FRONTEND": "1"}), "VLLM_USE_RUST_FRONTEND"),
    ((["--host", "0.0.0.0"], {}), "can be reached from other machines"),
    ((["--set", "chat.topk=3"], {}), "did you mean 'chat.top_k'"),
    ((["--memory-config", "/nowhere.toml"], {}), "cannot read /nowhere.toml"),
    ((["--keys", "/nowhere.toml"], {}), "cannot read /nowhere.toml"),
    ((["--background", "pause", "--scheduling-policy", "fcfs"], {}), "--background pause needs"),
    ((["--set", "upstream.url=http://x"], {}), "upstream.url is for the gateway"),
    ((["--set", "classifier.source=served", "--set", "kv.mode=off"], {}), "inside vLLM needs kv.mode = persist"),
    ((["--set", "classifier.source=served", "-tp", "2"], {}), "served: the model is spread over several workers"),
    (
        (["--set", "kv.tier=offload"], {}),
        "kv.tier = offload: vLLM's offloading is for CUDA, and this vLLM computes on the CPU",
    ),
]


def _parse(lines: list[Line], registration: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.vllm_arguments"],
        input=json.dumps(lines),
        env=environment(registration),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_is_refused_and_why(tmp_path: Path) -> None:
    lines: list[Line] = [(["some/model", "--data-dir", str(tmp_path), *argv], env) for (argv, env), _ in REFUSED]
    for (_, complaint), found in zip(REFUSED, _parse(lines, tmp_path), strict=True):
        assert complaint in found.get("error", ""), found
        assert found.get("code", 2) == 2


def test_options_of_both_sides_meet(tmp_path: Path) -> None:
    data = tmp_path / "data"
    keys = keys_file(tmp_path)
    yaml = tmp_path / "vllm.yaml"
    yaml.write_text(f"max-num-seqs: 7\ndata-dir: {data}\nset: chat.top_k=3\n", "utf-8")
    hashed = tmp_path / "hashed.toml"
    hashed.write_text(f'[[keys]]\nsha256 = "{"0" * 64}"\ntenant = "red"\n', "utf-8")
    hashed.chmod(0o600)
    base = ["--data-dir", str(data)]
    plain, told, open_, own_key, other_model, digest, served, *others = _parse(
        [
            (["--model", "some/model", *base], {"VLLM_PLUGINS": "theirs,more"}),
            (["some/model", "--config", str(yaml), "--port", "8100", "--scheduling-policy", "fcfs"], {}),
            (["some/model", "--host", "0.0.0.0", "--keys", str(keys), *base], {}),
            (["some/model", "--api-key", "theirs", "--background", "cancel", *base], {"PYTHONHASHSEED": "7"}),
            (["some/model", "--set", "lm.url=http://elsewhere/v1", "--set", "device.shared=false", *base], {}),
            (["some/model", "--keys", str(hashed), *base], {}),
            (["some/model", "--set", "classifier.source=served", *base], {}),
            (["some/model", "--set", "kv.mode=off", *base], {}),
            (["some/model", "--prefix-caching-hash-algo", "xxhash", *base], {}),
            *((["some/model", "--kv-transfer-config", json.dumps(theirs), *base], {}) for theirs in THEIRS),
        ],
        tmp_path,
    )
    assert plain["args"]["model_tag"] == "some/model"
    assert plain["args"]["host"] == "127.0.0.1"
    assert plain["args"]["scheduling_policy"] == "priority"
    assert plain["args"]["prefix_caching_hash_algo"] == "sha256_cbor"
    assert plain["args"]["api_key"] is None
    assert plain["args"]["scheduler_cls"] == "lightmem_engine.vllm_plugin.scheduling.scheduler.PausingScheduler"
    assert "lm.pauses=true" in plain["owner"]
    assert own_key["args"]["scheduler_cls"] is None
    assert "lm.pauses=true" not in own_key["owner"]
    assert plain["environment"] == {"VLLM_PLUGINS": "lightmem,more,theirs", "PYTHONHASHSEED": "0"}
    assert plain["socket"] == str(data / "engine.sock")
    assert {"lm.url=http://127.0.0.1:8000/v1", "lm.send_priority=true", "lm.disable_thinking=true"} <= {*plain["owner"]}
    assert {"lm.send_salt=true", "device.shared=true"} <= {*plain["owner"]}
    assert plain["secrets"] == ["LIGHTMEM_LM__API_KEY"]
    assert plain["token"] not in json.dumps(plain["owner"])

    assert plain["kv"] == served["kv"] == ["LightMemConnector"]
    assert (plain["attention"], served["attention"]) == (False, True)
    assert "lm.tells_attention=true" in served["owner"]
    assert "lm.tells_attention=true" not in plain["owner"]
    assert [one["kv"] for one in others] == [
        [],
        [],
        ["LightMemConnector", "Other"],
        ["LightMemConnector", "Other", "Third"],
        ["Other"],
    ]

    assert "kv.server_off=--prefix-caching-hash-algo is xxhash" in others[1]["owner"]

    assert told["args"]["max_num_seqs"] == 7
    assert told["args"]["scheduling_policy"] == "fcfs"
    assert {"chat.top_k=3", "lm.url=http://127.0.0.1:8100/v1"} <= {*told["owner"]}
    assert not {"lm.send_priority=true", "lm.pauses=true"} & {*told["owner"]}
    assert told["args"]["scheduler_cls"] is None
    assert told["socket"] == str(data / "engine.sock")
    assert told["token"] != plain["token"]

    assert open_["args"]["api_key"] == ["red-key", "blue-key", open_["token"]]
    assert open_["api_keys"] == []
    assert own_key["args"]["api_key"] == ["theirs", own_key["token"]]
    assert len(own_key["api_keys"]) == 1
    assert own_key["environment"]["PYTHONHASHSEED"] == "7"

    assert other_model["secrets"] == []
    assert not any("127.0.0.1" in word for word in other_model["owner"])
    assert "device.shared=true" not in other_model["owner"]
    assert "only the sha256: write key" in digest["error"]


def test_the_command_itself_ends_with_two(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightmem_engine", "serve", "--backend", "vllm", "some/model", "--no-such-flag"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=250)
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-flag" in done.stderr
    assert "Traceback" not in done.stderr
