"""The processors of several workers: the shares, and the real service with two workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from models.engines.processors import TOPOLOGY, cores
from tests.conftest import Trained, serve


def confined_to(worker: int, workers: int) -> set[int]:
    """Return the processors of a process that `confine` was called in."""
    code = f"import os, models.engines.processors as p; p.confine({worker}, {workers}); print(*os.sched_getaffinity(0))"
    return {int(number) for number in subprocess.check_output([sys.executable, "-c", code], text=True).split()}


def test_a_core_is_all_its_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for processor, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        file = tmp_path / f"cpu{processor}/topology/thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(siblings)
    monkeypatch.setattr("models.engines.processors.TOPOLOGY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    assert cores() == [{0, 2}, {1, 3}, {4}]
    assert TOPOLOGY.is_dir()


def test_one_worker_has_all_processors() -> None:
    assert confined_to(1, 1) == os.sched_getaffinity(0)


def test_the_workers_share_the_cores_among_them() -> None:
    workers = len(cores())
    shares = [confined_to(worker, workers) for worker in range(1, workers + 1)]
    assert set().union(*shares) == os.sched_getaffinity(0)
    assert sum(map(len, shares)) == len(os.sched_getaffinity(0))
    assert confined_to(workers + 1, workers) == shares[0]  # the successor of the first worker


def test_workers_without_a_core_each_share_all_processors() -> None:
    assert confined_to(1, len(cores()) + 1) == os.sched_getaffinity(0)


@pytest.mark.slow
@pytest.mark.skipif(len(cores()) < 2, reason="needs two cores")
def test_two_workers_and_their_engines_have_a_core_each(trained: Trained, tmp_path: Path) -> None:
    overrides = json.dumps({"services": {"trigen": {"workers": 2}}})
    with serve(trained, tmp_path / "log", BENTOML_CONFIG_OVERRIDES=overrides) as server:
        engines = [
            process
            for process in psutil.Process(server.pid).children(recursive=True)
            if "models.engines.openvino.process" in process.cmdline()
        ]
        assert len(engines) == 2
        first, second = (set(engine.cpu_affinity()) for engine in engines)
        assert first
        assert second
        assert not first & second
        for engine in engines:
            worker = engine.parent()
            assert worker
            assert worker.cpu_affinity() == engine.cpu_affinity()
