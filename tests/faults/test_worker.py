"""The worker dies or is told to end, its models leave the store, or the system's clock is set."""

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import pytest

from tests.client import GENERATE_BODY, GENERATE_ROUTES, get, post, stream_events
from tests.conftest import Server, Trained, serve, serve_held, wait_until
from tests.faults.conftest import LLM, LSTM, WORKER, Record, only, wait_for_new
from tests.faults.table import write_record
from tests.faults.traffic import traffic

pytestmark = pytest.mark.faults
DAY = 24 * 60 * 60


def test_a_killed_worker_is_replaced(target: Server, record: Record) -> None:
    worker, engines = only(target, WORKER), [only(target, module) for module in (LLM, LSTM)]
    with traffic(target) as seen:
        seen.mark_fault()
        worker.kill()
        wait_until(lambda: not any(engine.is_running() for engine in engines), "the engines of the dead worker exit")
        wait_for_new(target, WORKER, worker)
        seen.wait_for_answers()
    assert all(result.start < seen.fault for result in seen.lost())  # requests that are sent meanwhile wait for the new worker
    record(seen)


def test_sigterm_loses_no_request(trained: Trained, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with serve_held(trained, tmp_path, TRIGEN_DRAIN_SECONDS="3600") as server, ThreadPoolExecutor(12) as pool:
        worker = only(server, WORKER)
        with server.texts_held():
            whole = [pool.submit(post, server, route, GENERATE_BODY) for route in GENERATE_ROUTES * 2]
            streams = [pool.submit(stream_events, server, route, GENERATE_BODY) for route in GENERATE_ROUTES * 2]
            server.wait_for("started", 12)
            os.kill(server.pid, signal.SIGTERM)
            wait_until(lambda: get(f"{server.url}/readyz").status_code == 503, "readiness fails")
            late = pool.submit(post, server, GENERATE_ROUTES[0], GENERATE_BODY)
            worker.send_signal(signal.SIGINT)  # ends the draining, which would take an hour
        ended = time.monotonic()
        assert [future.result().status_code for future in [*whole, late]] == [200] * 7
        assert {future.result()[-1]["finish_reason"] for future in streams} <= {"length", "stop"}
        wait_until(lambda: os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None, "the server exits")
        exited = os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)  # leaves the process for the fixture to reap
        assert exited
        assert (exited.si_code, exited.si_status) == (os.CLD_EXITED, 0)
        write_record(request.node.nodeid, gap=time.monotonic() - ended, requests=len(whole) + len(streams) + 1)


def test_the_store_is_emptied_and_both_engines_are_killed(trained: Trained, tmp_path: Path, record: Record) -> None:
    copied = replace(trained, home=tmp_path / "copy")
    shutil.copytree(trained.home / "bentoml/models", copied.home / "bentoml/models")
    with serve(copied, tmp_path / "log", TRIGEN_REPRODUCIBLE="true") as server, traffic(server) as seen:
        shutil.rmtree(copied.home / "bentoml/models")
        seen.wait_for_answers()
        assert seen.lost() == []
        seen.mark_fault()
        for module in (LLM, LSTM):
            engine = only(server, module)
            engine.kill()
            wait_for_new(server, module, engine)
        seen.wait_for_answers()
    assert [result for result in seen.lost() if not result.name.endswith("streamed")] == []
    record(seen)


def has_jumped(server: Server, jump: int) -> bool:
    """Whether the service's clock is ahead by about `jump` seconds."""
    ahead = parsedate_to_datetime(get(f"{server.url}/livez").headers["date"]).timestamp() - time.time()
    return abs(ahead - jump) < DAY / 2


def test_the_clock_jumps(trained: Trained, tmp_path: Path, faketime: Path, record: Record) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    fake = {"LD_PRELOAD": str(faketime), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
    with serve(trained, tmp_path / "log", TRIGEN_REPRODUCIBLE="true", **fake) as server:
        engines = [only(server, module) for module in (LLM, LSTM)]
        with traffic(server) as seen:
            seen.mark_fault()
            for jump in (DAY, -DAY):
                clock.with_suffix(".new").write_text(f"{jump:+d}")
                clock.with_suffix(".new").rename(clock)
                wait_until(partial(has_jumped, server, jump), "the service's clock has jumped")
                seen.wait_for_answers()
        assert [only(server, module) for module in (LLM, LSTM)] == engines
    assert seen.lost() == []
    record(seen)
