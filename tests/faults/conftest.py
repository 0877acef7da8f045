"""The server that the faults hit, its processes, and the record of what a fault costs."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import PROJECT, Server, Trained, serve, wait_until
from tests.faults.traffic import Traffic

RECORDS = PROJECT / "runs/faults"
LLM, LSTM, WORKER = "models.engines.openvino_process", "models.engines.lstm_process", "_bentoml_impl.worker.service"
"""The modules of the service's processes."""
HANG_AFTER = 2
"""A short TRIGEN_ENGINE_HANG_SECONDS, which the tests of hung engines wait for."""
Record = Callable[..., None]


def record_name(test_id: str) -> str:
    """Return the name of the file with the measurements of a test."""
    return test_id.rpartition("::")[2].replace("[", "-").removesuffix("]") + ".json"


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Write what the clients have seen, for the table in `docs/reliability.md`."""

    def write(seen: Traffic, *, gap: float | None = None, **more: object) -> None:
        """`gap`, in seconds, replaces the longest gap of any model."""
        gaps = seen.gaps()
        written = {
            "gap": max(gaps.values()) if gap is None else gap,
            "gaps": gaps,
            "lost": Counter(result.name for result in seen.lost()),
            "requests": Counter(result.name for result in seen.results),
            "details": sorted({result.detail for result in seen.lost()})[:20],
        }
        RECORDS.mkdir(parents=True, exist_ok=True)
        (RECORDS / record_name(request.node.nodeid)).write_text(json.dumps(written | more, indent=2) + "\n")

    return write


@pytest.fixture
def target(trained: Trained, tmp_path: Path) -> Iterator[Server]:
    """A server of its own for a test that kills parts of it. It is reproducible, so that every answer can be checked."""
    with serve(trained, tmp_path / "log", TRIGEN_REPRODUCIBLE="true", TRIGEN_ENGINE_HANG_SECONDS=str(HANG_AFTER)) as running:
        yield running


def processes(server: Server, module: str) -> list[psutil.Process]:
    """The server's processes that run `module`."""
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            if module in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue  # it has just exited, or is a zombie
    return found


def only(server: Server, module: str) -> psutil.Process:
    (process,) = processes(server, module)
    return process


def wait_for_new(server: Server, module: str, old: psutil.Process) -> None:
    """Wait until `module` runs in one process, and not in `old`."""
    wait_until(lambda: [process != old for process in processes(server, module)] == [True], f"{module} runs in a new process")
