"""`python -m tests.support.plain_vllm [options of vllm serve]`: vLLM alone, whatever its own command does here."""

from __future__ import annotations

import contextlib
import sys

from lightmem_engine.vllm_plugin import compat


def main(argv: list[str]) -> None:
    """Serve until told to stop."""
    command = compat.serve_command()
    root = compat.argument_parser("plain-vllm")
    command.subparser_init(root.add_subparsers(dest="subparser"))
    args = root.parse_args(["serve", *argv])
    command.validate(args)
    with contextlib.suppress(KeyboardInterrupt):
        command.cmd(args)


if __name__ == "__main__":
    main(sys.argv[1:])
