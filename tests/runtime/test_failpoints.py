"""Failpoints kill at the chosen pass of the chosen place, and only there."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from lightmem_engine.errors import ConfigError
from lightmem_engine.runtime.failpoints import Failpoints

SCRIPT = """
from lightmem_engine.runtime.failpoints import Failpoints
points = Failpoints("stage.commit:2")
for name in ("log.commit", "stage.commit", "log.commit", "stage.commit", "ack"):
    print(name, flush=True)
    points.reach(name)
"""


def test_the_nth_pass_is_the_last() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == ["log.commit", "stage.commit", "log.commit", "stage.commit"]


@pytest.mark.parametrize("spec", ["nowhere:1", "ack:0", "ack:x", "ack:-1"])
def test_a_bad_spec_is_an_error(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.failpoint"):
        Failpoints(spec)
