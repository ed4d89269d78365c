"""Arguments in, exit code out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from lightmem_engine.cli import backend, commands, kv_commands, memory_commands, sleep_commands
from lightmem_engine.config_loader import LoadedConfig, load
from lightmem_engine.errors import ConfigError, LightMemError
from lightmem_engine.runtime.device import share_cores
from lightmem_engine.version import VERSION

Command = Callable[[str, object, str], argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    share_cores()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["serve"] and backend.choose(arguments[1:]).is_vllm:
            from lightmem_engine.vllm_plugin import launcher  # vLLM's options are vLLM's to read

            return launcher.main(arguments[1:])
        args = build_parser().parse_args(arguments)
        return int(args.run(args, _load(args)))
    except ConfigError as error:
        print(f"lightmem-engine: {error}", file=sys.stderr)
        return 2
    except LightMemError as error:
        print(f"lightmem-engine: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="lightmem-engine", description="Long-term memory inside the inference stack.")
    parser.add_argument("--version", action="version", version=VERSION)
    common = _common_options()
    sub = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        own = sub.add_parser(name, parents=[common], help=help, description=help)
        own.set_defaults(run=run)
        return own

    def memory(name: str, run: object, help: str) -> argparse.ArgumentParser:
        own = command(name, run, help)
        own.add_argument("--tenant", default="default", help="whose users (default: %(default)s)")
        return own

    _add_serve(command)
    _add_memory_commands(command, memory)
    _add_measures(command)
    config = command("config", commands.show_config, "show every option: value, source and meaning")
    config.add_argument("--markdown", action="store_true", help="the option table of the README")

    command("doctor", commands.doctor, "say what was found on this machine and why it was chosen")
    return parser


def _common_options() -> argparse.ArgumentParser:
    """What every command takes."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data-dir", metavar="DIR", help="where memory is kept")
    common.add_argument("--memory-config", metavar="FILE", help="TOML file with options")
    common.add_argument(
        "--set", metavar="OPTION=VALUE", action="append", default=[], help="set one option; see `config`"
    )
    return common


def _add_serve(command: Command) -> None:
    serve = command("serve", commands.serve, "serve an OpenAI-compatible chat endpoint with memory")
    serve.add_argument("--host", help="address to listen on")
    serve.add_argument("--port", type=int, help="port to listen on")
    serve.add_argument("--model", help="a Qwen checkpoint: a path or a hub name")
    serve.add_argument(
        "--backend",
        choices=backend.BACKENDS,
        default="auto",
        help="who runs the model: vLLM, which takes all of its own options here (`serve --backend vllm --help`), or "
        "transformers in this process; auto: vLLM where it is installed with CUDA",
    )
    serve.add_argument("--upstream", metavar="URL", help="an OpenAI-compatible server to put memory in front of")
    serve.add_argument("--keys", metavar="FILE", help="TOML file with API keys and their tenants")


def _add_memory_commands(command: Command, memory: Command) -> None:
    """Those that read and change what is stored."""
    add = memory("add", memory_commands.add, "remember the messages of a JSONL file")
    add.add_argument("file", metavar="FILE", help="JSON rows: role, content, optionally id, name, timestamp")
    add.add_argument("--user", required=True)
    add.add_argument("--session")

    search = memory("search", memory_commands.search, "ask what is remembered")
    search.add_argument("query", metavar="QUESTION")
    search.add_argument("--user", required=True)
    search.add_argument("--top-k", type=int, default=10)
    search.add_argument("--json", action="store_true", help="one JSON object instead of lines")

    flush = memory("flush", memory_commands.flush, "turn everything that waits into long-term memory")
    flush.add_argument("--user")

    stats = memory("stats", memory_commands.stats, "count what is stored, what waits and what is parked")
    stats.add_argument("--user")

    entries = memory("entries", memory_commands.entries, "list all that is remembered of a user")
    entries.add_argument("--user", required=True)
    entries.add_argument("--json", action="store_true", help="one JSON object per line")

    delete = memory("delete", memory_commands.delete, "delete entries, or a user, from every file and cache")
    delete.add_argument("id", metavar="ID", nargs="*", help="entry ids, as `entries` lists them")
    delete.add_argument("--user", required=True)
    delete.add_argument("--all", action="store_true", help="everything of this user")

    memory("users", memory_commands.users, "list the users of whom something is stored")

    export = memory("export", memory_commands.export, "write memories as JSON Lines")
    export.add_argument("--user", help="this user's only")
    export.add_argument("-o", "--output", metavar="FILE", default="-", help="instead of standard output")

    import_ = memory("import", memory_commands.import_, "take in an export; twice is harmless")
    import_.add_argument("file", metavar="FILE", help="what `export` wrote; - reads standard input")

    _add_sleep_command(memory)

    kv = memory("kv", kv_commands.kv, "count, check or remove kept KV caches; no memory is lost by it")
    kv.add_argument("action", choices=["stats", "verify", "purge"])
    kv.add_argument("--user", help="purge: this user's only")

    command("reindex", memory_commands.reindex, "embed everything anew, after the embedder was changed")


def _add_measures(command: Command) -> None:
    evaluate = command("eval", commands.evaluate, "replay a published data file through the engine and measure")
    evaluate.add_argument("what", choices=["locomo", "beam", "longmemeval", "segmentation", "compression"])
    evaluate.add_argument("file", metavar="FILE", nargs="+")
    evaluate.add_argument("--json", action="store_true", help="print only the JSON object")
    evaluate.add_argument("--reader", metavar="URL", help="model server that answers (published judged protocol)")
    evaluate.add_argument("--judge", metavar="URL", help="model server that judges")
    evaluate.add_argument("--reader-model", default="", help="model name to ask the reader for")
    evaluate.add_argument("--judge-model", default="", help="model name to ask the judge for")
    evaluate.add_argument("--log", metavar="FILE", help="JSONL with one row per judged question")

    bench = command("bench", commands.bench, "measure; from a checkout of the repository, where the benches are")
    bench.add_argument(
        "what",
        choices=["serve", "interference", "encoders", "prefix"],
        help="all with a vLLM. serve: it alone, and with memory off, on, and asleep; interference: what background "
        "calls cost those who chat; encoders: the same of the encoders; prefix: whether memory keeps the prefix cache",
    )
    bench.add_argument("rest", nargs=argparse.REMAINDER, help="options of the bench; --help lists them")


def _add_sleep_command(memory: Command) -> None:
    """Runs are started, listed, shown and undone by one command."""
    help = "let newer memories change older ones, and show what changed; or look at a run, or undo it"
    sleep = memory("sleep", sleep_commands.sleep, help)
    sleep.add_argument("action", nargs="?", default="run", choices=sorted(sleep_commands.ACTIONS), help="default: run")
    sleep.add_argument("run_id", nargs="?", metavar="RUN", help="the run to show or to roll back")
    sleep.add_argument("--user", help="run, list: this user's only")
    sleep.add_argument("--max-calls", type=int, metavar="N", help="calls of the model; the rest is for the next run")
    sleep.add_argument("--max-tokens", type=int, metavar="N", help="tokens, prompts and answers")
    sleep.add_argument("--max-seconds", type=float, metavar="S", help="length of the run")
    sleep.add_argument("--json", action="store_true", help="JSON instead of lines")


def _load(args: argparse.Namespace) -> LoadedConfig:
    """The configuration, command-line flags last."""
    settings = list(args.set)
    flags = {
        "data_dir": "data_dir",
        "host": "server.host",
        "port": "server.port",
        "upstream": "upstream.url",
        "keys": "identity.keys",
    }
    for flag, option in flags.items():
        if getattr(args, flag, None) is not None:
            settings.append(f"{option}={getattr(args, flag)}")
    if getattr(args, "model", None):
        settings += [f"lm.model={args.model}", "lm.backend=qwen"]
    return load(args.memory_config, settings=settings)
