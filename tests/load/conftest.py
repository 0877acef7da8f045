"""The models of the load tests, which are kept in `runs/load/models`."""

from pathlib import Path

import pytest

from tests.conftest import PROJECT, Trained, run

REPORTS = PROJECT / "runs/load"


@pytest.fixture(scope="session")
def load_models() -> Trained:
    """Models of the sizes of real ones."""
    home = REPORTS / "models"
    made = home / "complete"
    if not made.exists():
        done = run(["-m", "tests.load.models", str(home / "artifacts")], home)
        assert done.returncode == 0, done.stderr
        made.touch()
    return Trained(home, home / "artifacts", "")


@pytest.fixture(scope="session")
def reports() -> Path:
    """The directory of the reports."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    return REPORTS
