"""The process of an engine dies, hangs or has no memory: it is replaced in place, and the other models go on."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.client import get, post
from tests.conftest import Server
from tests.faults.conftest import LLM, LSTM, WORKER, Record, only, processes, wait_for_new
from tests.faults.traffic import WHOLE, Traffic, traffic

pytestmark = pytest.mark.faults
LLM_SECONDS = 10
"""The promise: after an engine is killed, the LLM answers again within this time."""

LONG_BODY = {"start_word": "light " * 200, "length": 20}


def check_losses(seen: Traffic, model: str) -> None:
    """Only streams of `model` may be lost, and each says so in its last event."""
    assert [result for result in seen.lost() if result.name != f"{model}, streamed"] == []
    assert [result for result in seen.lost() if result.outcome != "refused"] == []


def test_without_a_fault(target: Server, record: Record) -> None:
    with traffic(target) as seen:
        seen.mark_fault()
        for _ in range(5):
            seen.wait_for_answers()
    assert seen.lost() == []
    record(seen)


@pytest.mark.parametrize("fault", [psutil.Process.kill, psutil.Process.suspend], ids=["killed", "hung"])
@pytest.mark.parametrize(("model", "module"), [("llm", LLM), ("rnn", LSTM)], ids=["llm", "rnn"])
def test_an_engine_is_replaced(target: Server, record: Record, model: str, module: str, fault: Callable[[psutil.Process], None]) -> None:
    engine = only(target, module)
    with traffic(target) as seen:
        seen.mark_fault()
        fault(engine)
        wait_for_new(target, module, engine)
        seen.wait_for_answers()
    check_losses(seen, model)
    record(seen, model)
    if fault is psutil.Process.kill:
        assert seen.gaps()["llm"] < LLM_SECONDS
    assert get(f"{target.url}/readyz").status_code == 200


def test_an_engine_without_memory_is_replaced(target: Server, record: Record) -> None:
    engine = only(target, LLM)
    with traffic(target) as seen:
        seen.mark_fault()
        engine.rlimit(psutil.RLIMIT_AS, (1, 1))  # it keeps what it has, and gets no more
        while engine in processes(target, LLM):
            assert post(target, "/generate_with_llm", LONG_BODY).status_code == 200  # needs more, and starts again in the new process
        wait_for_new(target, LLM, engine)
        seen.wait_for_answers()
    check_losses(seen, "llm")
    record(seen, "llm")


def test_an_engine_that_cannot_start_ends_the_worker_with_status_70(target: Server, record: Record) -> None:
    server, worker = psutil.Process(target.pid), only(target, WORKER)
    with traffic(target, WHOLE) as seen:
        seen.mark_fault()
        server.suspend()  # so that the worker stays a zombie, whose status can be read
        try:
            while worker.status() != psutil.STATUS_ZOMBIE:
                for process in processes(target, LLM):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                time.sleep(0.02)
            assert exit_status(worker) == 70
        finally:
            server.resume()
        wait_for_new(target, WORKER, worker)
        seen.wait_for_answers()
    assert "has failed 5 times in a row" in target.log.read_text()
    record(seen, "llm")


def exit_status(zombie: psutil.Process) -> int:
    """The exit status of a process whose parent has not waited for it yet: the last field in proc(5)."""
    return os.waitstatus_to_exitcode(int(Path(f"/proc/{zombie.pid}/stat").read_text().split()[-1]))
