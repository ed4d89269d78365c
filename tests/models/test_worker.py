import threading
from functools import partial

import pytest

from lightmem_engine.errors import BackendUnavailable
from lightmem_engine.models.worker import StepWorker


def test_urgent_steps_go_first_and_equal_ones_in_order() -> None:
    worker, gate, seen = StepWorker("test"), threading.Event(), list[str]()
    blocker = worker.submit(gate.wait, 0)
    waiting = [worker.submit(partial(seen.append, name), 10) for name in ("a", "b")]
    waiting.append(worker.submit(partial(seen.append, "urgent"), 0))
    gate.set()
    for future in waiting:
        future.result(30)
    assert blocker.result(30)
    assert seen == ["urgent", "a", "b"]
    worker.close()


def test_a_failure_reaches_its_caller_and_the_worker_lives_on() -> None:
    worker = StepWorker("test")
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda: 1 / 0, 0).result(30)
    assert worker.submit(lambda: 7, 0).result(30) == 7
    worker.close()


def test_a_step_cancelled_before_its_start_never_runs() -> None:
    worker, gate, seen = StepWorker("test"), threading.Event(), list[str]()
    worker.submit(gate.wait, 0)
    doomed = worker.submit(lambda: seen.append("doomed"), 0)
    assert doomed.cancel()
    gate.set()
    worker.submit(lambda: None, 5).result(30)
    assert seen == []
    worker.close()


def test_closing_fails_what_waits() -> None:
    worker, started, gate = StepWorker("test"), threading.Event(), threading.Event()

    def block() -> bool:
        started.set()
        return gate.wait(30)

    running = worker.submit(block, 0)
    waiting = worker.submit(lambda: None, 0)
    started.wait(30)
    closer = threading.Thread(target=worker.close)
    closer.start()
    with pytest.raises(BackendUnavailable):
        waiting.result(30)
    gate.set()
    closer.join(30)
    assert running.result(0)
    with pytest.raises(BackendUnavailable):
        worker.submit(lambda: None, 0)
