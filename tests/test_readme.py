"""What the README shows, works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.server import Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ten_lines_with_the_openai_client(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        output = _run(BLOCKS[0].replace("http://127.0.0.1:8000", server.url))
    assert output.startswith("Your sister's home: Lisbon.")
    assert "'stored': True" in output


def test_the_library(tmp_path: Path) -> None:
    output = _run(BLOCKS[1].replace("/tmp/lightmem-readme", str(tmp_path / "data")))
    assert "Miso" in output.splitlines()[0]
    assert "7 May 2023" in output


def test_every_command_and_target_that_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    help_text = _run("from lightmem_engine.cli.main import build_parser; print(build_parser().format_help())")
    named = re.search(r"`lightmem-engine ([a-z |]+)`", README)
    assert named is not None
    for command in named[1].split(" | "):
        assert f"    {command} " in help_text or f"    {command}\n" in help_text, command
