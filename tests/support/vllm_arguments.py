"""`python -m tests.support.vllm_arguments`: command lines in, what the launcher makes of them out; vLLM starts nowhere.

Reads a JSON list of [argv, environment] from standard input; writes a list of {"error"} or of what is planned.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import Any

from lightmem_engine.config_loader import load
from lightmem_engine.errors import ConfigError
from lightmem_engine.vllm_plugin import launcher


def main() -> None:
    """One object per command line."""
    inherited = dict(os.environ)
    found = []
    for argv, environment in json.load(sys.stdin):
        os.environ.clear()
        os.environ.update(inherited | environment)
        found.append(_planned(argv))
    print(json.dumps(found))


def _planned(argv: list[str]) -> dict[str, Any]:
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            _, args = launcher.parse(argv)
            plan = launcher.prepare(args, load(args.memory_config, settings=launcher.settings_of(args)))
    except ConfigError as error:
        return {"error": str(error)}
    except SystemExit as end:
        return {"error": words.getvalue().strip().splitlines()[-1], "code": end.code}
    names = [*("model_tag", "host", "port", "api_key", "max_num_seqs")]
    names += ["scheduling_policy", "scheduler_cls", "prefix_caching_hash_algo"]
    return {
        "args": {name: getattr(args, name) for name in names},
        "kv": _connectors(args.kv_transfer_config),
        "owner": plan.owner_arguments,
        "secrets": sorted(plan.owner_environment),
        "environment": plan.environment,
        "socket": plan.settings.socket,
        "token": plan.settings.token,
        "api_keys": plan.settings.api_keys,
        "attention": plan.settings.attention,
    }


def _connectors(config: Any) -> list[str]:
    """Those that keep or pass on KV, in the order in which they are asked."""
    if config is None:
        return []
    several = config.kv_connector_extra_config.get("connectors", [])
    return [one["kv_connector"] for one in several] or [config.kv_connector]


if __name__ == "__main__":
    main()
