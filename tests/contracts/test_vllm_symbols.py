"""What the plugin leans on is where this vLLM has it. One process imports vLLM for all of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.vllm_plugin import compat
from lightmem_engine.vllm_plugin.scheduling import pausing
from tests.support.vllm_server import HAS_VLLM, NO_VLLM, environment

pytestmark = pytest.mark.skipif(not HAS_VLLM, reason=NO_VLLM)

LOOK = """
import inspect, json, sys
from lightmem_engine.vllm_plugin import compat

found = {}
for name in compat.SYMBOLS:
    try:
        found[name] = repr(compat.symbol(name))
    except Exception as error:
        found[name] = f"missing: {error}"
serve = compat.symbol("ServeSubcommand")
plugin = compat.symbol("EndpointPlugin")
taken = lambda of, *names: {name: list(inspect.signature(getattr(of, name)).parameters) for name in names}
found["serve"] = taken(serve, "cmd", "validate", "subparser_init")
found["plugin"] = taken(plugin, "attach_router", "init_state")
parser = compat.argument_parser("x")
sub = parser.add_subparsers(dest="subparser")
args = vars(serve().subparser_init(sub).parse_args(["model"]))
found["args"] = sorted(args)
found["fields"] = sorted(compat.symbol("ChatCompletionRequest").model_fields)
scheduler = compat.symbol("Scheduler")
found["scheduler"] = inspect.getsource(scheduler.__init__)
found["schedule"] = inspect.getsource(scheduler.schedule)
found["queue"] = dir(compat.symbol("RequestQueue"))
found["is_async_one"] = issubclass(compat.symbol("AsyncScheduler"), scheduler)
from lightmem_engine.vllm_plugin.scheduling import scheduler as ours
found["ours"] = [issubclass(ours.PausingScheduler, scheduler), ours.SLICE_TOKENS]
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    env = environment(tmp_path_factory.mktemp("registration"))
    done = subprocess.run([sys.executable, "-c", LOOK], env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return result


@pytest.mark.parametrize("name", compat.SYMBOLS)
def test_the_symbol_is_there(found: dict[str, Any], name: str) -> None:
    assert not found[name].startswith("missing"), found[name]


def test_the_serve_command_and_the_plugin_have_the_shape_we_call(found: dict[str, Any]) -> None:
    assert found["serve"] == {"cmd": ["args"], "validate": ["self", "args"], "subparser_init": ["self", "subparsers"]}
    assert found["plugin"]["attach_router"] == ["self", "app"]
    assert found["plugin"]["init_state"] == ["self", "engine_client", "state", "args"]


def test_the_options_and_fields_that_we_set_exist(found: dict[str, Any]) -> None:
    options = {"host", "port", "api_key", "scheduling_policy", "prefix_caching_hash_algo", "gpu_memory_utilization"}
    options |= {"api_server_count", "headless", "ssl_certfile", "ssl_cert_reqs", "uds", "kv_transfer_config"}
    assert options <= {*found["args"]}
    assert {"messages", "priority", "cache_salt", "kv_transfer_params"} <= {*found["fields"]}


def test_the_scheduler_has_what_we_hold_back_by(found: dict[str, Any]) -> None:
    for name in ("running", "waiting", "max_num_running_reqs", "max_num_scheduled_tokens", "kv_cache_manager"):
        assert f"self.{name}" in found["scheduler"], name
    assert "token_budget = self.max_num_scheduled_tokens" in found["schedule"]
    assert {"remove_requests", "add_request", "__iter__"} <= {*found["queue"]}
    queues = re.findall(r"self\.(\w+) = create_request_queue", found["scheduler"])
    limits = re.findall(r"self\.(max_num_\w+_reqs) =", found["scheduler"])
    assert "waiting" in queues
    assert {*queues} <= {*pausing.QUEUES}, "background requests would move in the others"
    assert {*limits} <= {*pausing.LIMITS}, "more would run than there are places for"
    assert found["is_async_one"]
    assert found["ours"] == [True, 128]


def test_allowed_plugins_keep_everybodys(tmp_path: Path) -> None:
    assert compat.allowed_plugins("a, b") == "a,b,lightmem"
    assert compat.allowed_plugins("lightmem") == "lightmem"
    assert "lightmem" in compat.allowed_plugins(None).split(",")
