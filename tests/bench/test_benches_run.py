"""The benches and the demo work, at a size that measures nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench import bench_ingest, bench_kernels, bench_kv, bench_kv_reuse, bench_kv_storage, bench_sensory, run
from bench.dialogues import MIN_TOKENS, sayings
from bench.harness import ROOT
from lightmem_engine.text import num_tokens

SMALL = ["--stub", "--dry", "--messages", "60", "--users", "5", "--connections", "8", "--max-seconds", "30"]


def test_sayings_are_long_varied_and_in_sessions() -> None:
    said = list(sayings(600, 30))
    assert said == list(sayings(600, 30))
    assert all(num_tokens(saying.content) >= MIN_TOKENS for saying in said)
    assert len({saying.content for saying in said}) == len({saying.id for saying in said}) == 600
    of_one = [saying for saying in said if saying.user == "user7"]
    assert [saying.role for saying in of_one] == ["user", "assistant"] * 10
    assert len({saying.session for saying in of_one}) == 4


def test_ingest_reports_no_error_and_drains(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_ingest.main(SMALL) == 0
    rows = capsys.readouterr().out
    for figure in ("errors: 0", "pending at the end: 0", "parked at the end: 0", "add latency: p20", "count 60"):
        assert figure in rows


@pytest.mark.filterwarnings("ignore")
def test_the_sensory_pass_is_set_against_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("llmlingua", reason="the published package is a test extra")
    small = ["--layers", "1", "--tokens", "10", "--users", "2", "--sample", "1", "--rounds", "1", "--dry"]
    assert bench_sensory.main(small) == 0
    rows = capsys.readouterr().out
    for variant in ("window", "per_message", "window, bf16", "per_message, bf16"):
        for figure in (
            ", per message: p20",
            ", end to end: ",
            ", times the reference: ",
            ", times llmlingua alone: ",
            ", peak memory",
        ):
            assert variant + figure in rows


def test_mixed_ingest_asks_in_every_phase(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_ingest.main([*SMALL, "--mixed", "--idle-seconds", "0.3"]) == 0
    rows = capsys.readouterr().out
    for phase in ("idle", "messages arrive"):
        assert f'"meanwhile": "{phase}"}} search latency' in rows


def test_caches_that_are_not_exact_are_set_against_exact_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_kv_storage.main([*run.BENCHES["kv_storage"].quick]) == 0
    assert bench_kv_reuse.main([*run.BENCHES["kv_reuse"].quick]) == 0
    rows = capsys.readouterr().out
    for model in ("qwen3-tiny-random", "packaged"):
        for kind in ("exact", "int8", "fp8"):
            assert f'{{"model": "{model}", "storage": "{kind}"' in rows
    for figure in (
        "relative error of keys, mean",
        "answers word for word as computed: ",
        "divergence of the next token",
    ):
        assert figure in rows


def test_kept_caches_are_set_against_computing(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_kv.main([*run.BENCHES["kv"].quick]) == 0
    rows = capsys.readouterr().out
    for figure in ("computed over loaded, p50: ", "engine's choice: load: ", "over computing, worst: "):
        assert figure in rows


def test_kernels_are_set_against_what_the_machine_could_do(capsys: pytest.CaptureFixture[str]) -> None:
    """The smallest encoder and reductions; without a GPU there is no kernel of ours among them."""
    assert bench_kernels.main(["--device", "cpu", "--tiny", "--rounds", "1", "--dry"]) == 0
    rows = capsys.readouterr().out
    for figure in (
        "matmul rate: ",
        "library: p20",
        "naive: p20",
        "library, times naive: ",
        "packed forward: ",
        "torch, times numpy: ",
    ):
        assert figure in rows


def test_the_demo_recalls_everything() -> None:
    command = [sys.executable, "-m", "bench.demo", "--stubs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "4 of 4 facts recalled; another user gets 0 of them." in done.stdout
    assert "What was corrected is gone from recall" in done.stdout
    assert "without memory: stub" in done.stdout


def test_run_lists_the_benches_and_refuses_unknown_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in run.BENCHES)
    for names in (["nonsense"], ["recall"]):
        with pytest.raises(SystemExit):
            run.main(names)
