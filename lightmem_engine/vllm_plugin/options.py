"""The memory's options beside vLLM's, and what of vLLM's cannot be served with memory."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from lightmem_engine.errors import ConfigError

BACKENDS = ("auto", "vllm", "transformers")
_OFF = frozenset({"", "0", "false", "False"})


def add_options(parser: argparse.ArgumentParser) -> None:
    """One group of ours; and defaults of vLLM's that memory wants, which a flag still overrides."""
    group = parser.add_argument_group("Memory", "LightMem Engine: long-term memory in this server.")
    group.add_argument("--backend", choices=BACKENDS, default="auto", help="who runs the model (here: vLLM)")
    group.add_argument("--data-dir", metavar="DIR", help="where memory is kept")
    group.add_argument("--memory-config", metavar="FILE", help="TOML file with the memory's options")
    group.add_argument("--keys", metavar="FILE", help="TOML file with API keys and their tenants")
    group.add_argument(
        "--set", metavar="OPTION=VALUE", action="append", default=[], help="set one option of the memory"
    )
    group.add_argument(
        "--background",
        choices=("auto", "pause", "cancel"),
        default="auto",
        help="what the memory's calls of the model do while somebody chats: stand still inside vLLM, by a scheduler of "
        "ours, or give up and begin anew; auto: pause on CPU, cancel elsewhere",
    )
    parser.usage = "lightmem-engine serve [model_tag] [options]"
    parser.set_defaults(
        host="127.0.0.1",
        scheduling_policy="priority",  # without it background work would queue like a chat
        prefix_caching_hash_algo="sha256_cbor",  # the same hashes in every process and after every start
    )


def refuse_environment(environment: Mapping[str, str]) -> None:
    """Raises `ConfigError` for a front end that is chosen by a variable and knows no plugins."""
    if environment.get("VLLM_USE_RUST_FRONTEND", "") not in _OFF:
        raise ConfigError("VLLM_USE_RUST_FRONTEND: that front end bypasses the memory; unset it")


def refuse_bypasses(args: argparse.Namespace) -> None:
    """Raises `ConfigError` for options under which chats would not pass through the memory, or it not reach vLLM."""
    reasons = {
        "grpc": "its requests bypass the memory",
        "grpc_port": "its requests bypass the memory",
        "headless": "there is no API server in which the memory could be; start it where the API server is",
        "data_parallel_multi_port_external_lb": "its servers are started without the memory",
        "uds": "the memory's owner reaches the model over TCP; use --host 127.0.0.1 and --port",
    }
    for name, reason in reasons.items():
        if getattr(args, name, None) not in (None, False):
            raise ConfigError(f"--{name.replace('_', '-')}: {reason}")
    if args.api_server_count is not None and args.api_server_count < 1:
        raise ConfigError("--api-server-count: the memory needs at least one API server")
    if not args.port:
        raise ConfigError("--port 0: the memory's owner must know the port; name one")
    if int(getattr(args, "ssl_cert_reqs", 0) or 0):
        raise ConfigError("--ssl-cert-reqs: the memory's owner has no client certificate")
