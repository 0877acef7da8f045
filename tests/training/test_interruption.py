"""In a process of its own: a signal to pytest's would meet whatever other tests loaded."""

from pathlib import Path

from tests.conftest import run

PROGRAM = """
import os, signal
from training.interruption import Interrupted, Interruption

interruption = Interruption()
interruption.install()
for number in (signal.SIGTERM, signal.SIGINT):  # nothing to save: at once
    interruption.requested = None
    try:
        os.kill(os.getpid(), number)
    except Interrupted as raised:
        print(raised.saved, raised.exit_status)
interruption.requested = None
with interruption.deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    print("told", interruption.requested == signal.SIGTERM)
    try:
        with interruption.immediate():
            print("not reached")
    except Interrupted as raised:
        print("before what is immediate", raised.saved)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Interrupted as raised:
        print("the second does not wait", raised.saved)
"""


def test_signals_end_what_has_nothing_to_save_and_are_told_to_what_has(tmp_path: Path) -> None:
    done = run(["-c", PROGRAM], tmp_path)
    assert done.stderr.count("finishing this step, then saving") == 1
    assert done.stdout.splitlines() == [
        "False 0", "False 130", "told True", "before what is immediate True", "the second does not wait False",
    ], done.stderr  # fmt: skip
