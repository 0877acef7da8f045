"""Registering and pulling models survive `kill -9` and a full disk: all three or none, and the store stays whole."""

import json
from pathlib import Path

import pytest

from tests.conftest import run

CASES = [
    *(("register", fault) for fault in ("kill", "full", "kill-while-writing", "full-while-writing")),
    *(("pull", fault) for fault in ("kill-while-writing", "full-while-writing")),
    *(pytest.param("pull", fault, marks=pytest.mark.slow) for fault in ("kill", "full")),
]


@pytest.mark.parametrize(("action", "fault"), CASES)
def test_a_fault_at_any_file_operation_leaves_the_store_whole(tmp_path: Path, action: str, fault: str) -> None:
    done = run(["-m", "tests.models.store.interrupted_registration", action, fault, str(tmp_path)], tmp_path)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    interrupted = {"kill": {"killed: old", "killed: new"}, "full": {"failed: old"}}.get(fault)
    if interrupted:
        assert set(outcomes) - {"recovery killed", "recovery done"} == interrupted | {"done: new"}
    if fault == "kill":
        assert outcomes["recovery killed"] > outcomes["recovery done"] >= 6  # three models, three `latest`
