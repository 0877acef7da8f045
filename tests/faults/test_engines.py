"""The process of an engine dies, hangs or has no memory: it is replaced in place, and the other models go on."""

import os
import signal
import time
from contextlib import suppress

import psutil
import pytest

from tests.client import get
from tests.conftest import Server, wait_until
from tests.faults.conftest import LLM, LSTM, WORKER, Record, only, processes, wait_for_new
from tests.faults.traffic import WHOLE, Traffic, traffic

pytestmark = pytest.mark.faults
LLM_SECONDS = 10
"""The time that issue 16 allows between the death of the LLM's engine and the next answer of the LLM."""


def check_losses(seen: Traffic, model: str) -> None:
    """Only streams of `model` may be lost, and each says so in its last event."""
    assert [result for result in seen.lost() if result.name != f"{model}, streamed"] == []
    assert [result for result in seen.lost() if result.outcome != "refused"] == []


@pytest.mark.parametrize(("model", "module"), [("llm", LLM), ("rnn", LSTM)], ids=["llm", "rnn"])
def test_a_killed_engine_is_replaced(target: Server, record: Record, model: str, module: str) -> None:
    engine = only(target, module)
    with traffic(target) as seen:
        seen.mark_fault()
        engine.kill()
        wait_for_new(target, module, engine)
        seen.wait_for_answers()
    check_losses(seen, model)
    record(seen, gap=seen.gaps()[model])
    assert seen.gaps()["llm"] < LLM_SECONDS
    assert get(f"{target.url}/readyz").status_code == 200


@pytest.mark.parametrize(("model", "module"), [("llm", LLM), ("rnn", LSTM)], ids=["llm", "rnn"])
def test_a_hung_engine_is_replaced(target: Server, record: Record, model: str, module: str) -> None:
    engine = only(target, module)
    with traffic(target) as seen:
        seen.mark_fault()
        engine.suspend()
        wait_for_new(target, module, engine)
        seen.wait_for_answers()
    check_losses(seen, model)
    record(seen, gap=seen.gaps()[model])


def test_an_engine_without_memory_is_replaced(target: Server, record: Record) -> None:
    engine = only(target, LLM)
    with traffic(target) as seen:
        seen.mark_fault()
        engine.rlimit(psutil.RLIMIT_AS, (1, 1))  # it keeps what it has, and gets no more
        wait_for_new(target, LLM, engine)
        seen.wait_for_answers()
    check_losses(seen, "llm")
    record(seen, gap=seen.gaps()["llm"])


def test_an_engine_that_cannot_start_ends_the_worker_with_status_70(target: Server, record: Record) -> None:
    worker = only(target, WORKER)
    with traffic(target, WHOLE) as seen:
        seen.mark_fault()
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            for process in processes(target, LLM):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.02)
        assert exit_status(worker) in (70, None)
        wait_for_new(target, WORKER, worker)
        seen.wait_for_answers()
    record(seen, gap=seen.gaps()["llm"])
    assert "has failed 5 times in a row" in target.log.read_text()


def exit_status(process: psutil.Process) -> int | None:
    """The exit status of a process whose parent has not waited for it yet; None if it has."""
    try:
        with open(f"/proc/{process.pid}/stat") as file:
            return os.waitstatus_to_exitcode(int(file.read().split()[-1]))  # see proc(5): the last field is exit_code
    except FileNotFoundError:
        return None
