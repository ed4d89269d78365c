"""`lightmem-engine kv`: look at kept KV caches, check them, remove them."""

from __future__ import annotations

import argparse
import json

from lightmem_engine.cli.connect import open_memory
from lightmem_engine.config_loader import LoadedConfig


def kv(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Stats, verify or purge; `verify` fails if something was damaged or could not be read."""
    with open_memory(loaded.config, args.tenant) as memory:
        match args.action:
            case "verify":
                counts = memory.kv_verify()
                print(json.dumps(counts))
                return 0 if counts["damaged"] == counts["unreadable"] == 0 else 1
            case "purge":
                print(f"{memory.kv_purge(user_id=args.user)} KV caches removed")
            case _:
                print(json.dumps(memory.kv_stats(), indent=2))
    return 0
