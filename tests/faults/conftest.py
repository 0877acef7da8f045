"""The server that the faults hit, its processes, and the record of what a fault costs."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path

import psutil
import pytest

from tests.conftest import Server, Trained, serve, wait_until
from tests.faults.table import write_record
from tests.faults.traffic import Traffic

LLM, LSTM, WORKER = "models.engines.openvino.process", "models.engines.lstm_process", "_bentoml_impl.worker.service"
"""The modules of the service's processes."""
HANG_AFTER = 2
"""A short TRIGEN_ENGINE_HANG_SECONDS, which the tests of hung engines wait for."""
Record = Callable[..., None]


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Write what the clients have seen, for the table in `docs/reliability.md`."""

    def write(seen: Traffic, model: str | None = None) -> None:
        """Write the gap of `model`, which the fault hits, and the longest gap of the others; without it, the longest gap of all."""
        gaps = seen.gaps()
        write_record(
            request.node.nodeid,
            gap=gaps.pop(model) if model else max(gaps.values()),
            others=max(gaps.values()) if model else None,
            lost=Counter(result.name for result in seen.lost()),
            requests=len(seen.results),
            details=Counter(result.detail for result in seen.lost()),
        )

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


@pytest.fixture
def faketime() -> Path:
    """The library that sets the clock of a process while it runs: https://github.com/wolfcw/libfaketime."""
    places = [
        os.environ.get("LIBFAKETIME", ""),
        *glob("/usr/lib/*/faketime/libfaketimeMT.so.1"),
        *glob("/usr/lib/faketime/libfaketimeMT.so.1"),
    ]
    library = next(filter(os.path.exists, places), None)
    if library is None:
        pytest.skip("libfaketime is not installed: install the package faketime, or set LIBFAKETIME to its libfaketimeMT.so.1")
    return Path(library)
