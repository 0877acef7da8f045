"""Each case runs in a process of its own: in pytest's, a signal would reach the handlers of libraries that other tests have loaded."""

import pytest

from tests.conftest import run

SET_UP = """
import os, signal
from training.interruption import Interrupted, Interruption

def send(number):
    os.kill(os.getpid(), number)

interruption = Interruption()
interruption.install()
try:
"""
REPORT = """
except Interrupted as interrupted:
    print("saved" if interrupted.saved else "not saved", interrupted.exit_status)
else:
    print("not interrupted")
"""
NOTICE = "finishing this step, then saving; Ctrl-C now ends the run at once"


@pytest.mark.parametrize(
    ("program", "printed", "notices"),
    [
        (["send(signal.SIGTERM)", "print('not reached')"], ["not saved 143"], 0),
        (["send(signal.SIGINT)", "print('not reached')"], ["not saved 130"], 0),
        (
            ["with interruption.deferred():", "    send(signal.SIGTERM)", "    print('saving')", "print('not reached')"],
            ["saving", "saved 143"],
            1,
        ),
        (["with interruption.deferred():", "    send(signal.SIGINT)", "    print('saving')"], ["saving", "saved 130"], 1),
        (
            ["with interruption.deferred():", "    send(signal.SIGTERM)", "    send(signal.SIGINT)", "    print('not reached')"],
            ["not saved 130"],
            1,
        ),
        (
            ["with interruption.deferred():", "    send(signal.SIGTERM)", "    send(signal.SIGTERM)", "    print('saving')"],
            ["saving", "saved 143"],
            2,
        ),
        (["with interruption.deferred():", "    pass", "send(signal.SIGTERM)", "print('not reached')"], ["not saved 143"], 0),
        (["with interruption.deferred():", "    print(interruption.requested)"], ["None", "not interrupted"], 0),
        (  # another process received the signal first
            ["with interruption.deferred():", "    interruption.requested = 15", "    send(signal.SIGTERM)", "    print('saving')"],
            ["saving", "saved 143"],
            1,
        ),
    ],
    ids=[
        "SIGTERM outside the block ends the run at once",
        "Ctrl-C outside the block ends the run at once",
        "SIGTERM waits for the end of the block",
        "Ctrl-C waits for the end of the block",
        "Ctrl-C after a signal does not wait",
        "SIGTERM after SIGTERM waits",
        "a signal after the block does not wait",
        "a block without a signal ends normally",
        "a signal to another process does not count as the first of two",
    ],
)
def test_a_signal_ends_the_run_at_once_or_after_the_deferred_block(
    tmp_path_factory: pytest.TempPathFactory, program: list[str], printed: list[str], notices: int
) -> None:
    completed = run(["-c", SET_UP + "".join(f"    {line}\n" for line in program) + REPORT], tmp_path_factory.mktemp("home"))
    assert completed.stdout.splitlines() == printed, completed.stderr
    assert completed.stderr.count(NOTICE) == notices
