"""`train.py` on two machines, with the command of docs/training.md: undisturbed, and with a machine that dies in the middle."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import HANG_SECONDS, PROJECT, isolated_environment, wait_until
from tests.training.hosts import Host, two_hosts, why_no_hosts
from tests.training.test_resume import CHANGING, LLM_FLAGS, arguments, load_weights, read_metrics, take_steps_in_this_process
from training.config import parse

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_no_hosts() is not None, reason=str(why_no_hosts()))]

FLAGS = f"{LLM_FLAGS} --max-steps 20 --validations 1 --checkpoint-minutes 1e-9"
STEPS, CRASHED_AT = 20, 6
LAUNCHER = re.findall(r"torchrun --nnodes 2 .*(?= train\.py )", (PROJECT / "docs/training.md").read_text())[0].split()
"""The documented command, up to `train.py`."""

PACED_TRAINING = """
import os, runpy, time
from pathlib import Path
from training.fine_tuning.loop import FineTuner

take_step = FineTuner._take_step


def take_step_slowly(*arguments):
    time.sleep(float(Path(os.environ["PACE"]).read_text()))
    return take_step(*arguments)


FineTuner._take_step = take_step_slowly
runpy.run_path("train.py", run_name="__main__")
"""
"""Runs `train.py` with a pause before each step, whose seconds are in the file PACE: a machine should die before the last step."""


class Training:
    """A training on two hosts."""

    def __init__(self, home: Path, base: Path, hosts: list[Host], nodes: str = "2", flags: str = FLAGS) -> None:
        self.home, self.hosts, self.output, self.pace = home, hosts, home / "output", home / "pace"
        script = home / "paced_train.py"
        script.write_text(PACED_TRAINING)
        self.pace.write_text("0")
        launcher = [nodes if word == "2" else word for word in LAUNCHER]
        self.command = [*launcher, str(script), *arguments(base, self.output, flags), "--resume"]
        self.environment = isolated_environment(home) | {
            "OMP_NUM_THREADS": "1", "PACE": str(self.pace), "PYTHONPATH": str(PROJECT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }  # fmt: skip

    def start(self, *hosts: Host) -> "list[subprocess.Popen[bytes]]":
        """Start the documented command on these hosts, or on both."""
        return [host.start(self.command, self.environment, self.log(host)) for host in hosts or self.hosts]

    def log(self, host: Host) -> Path:
        return self.home / f"{host.name}.log"

    def printed(self) -> str:
        return "\n".join(self.log(host).read_text() for host in self.hosts)

    def steps(self) -> int:
        """Return the number of steps that are logged."""
        log = self.output / "fine-tuning/metrics.jsonl"
        return log.read_text().count('"kind": "train"') if log.exists() else 0

    def wait_for_step(self, step: int, *running: "subprocess.Popen[bytes]") -> None:
        def reached() -> bool:
            assert all(process.poll() is None for process in running), self.printed()
            return self.steps() >= step

        wait_until(reached, f"step {step}")

    def finish(self, *processes: "subprocess.Popen[bytes]") -> None:
        """Let the training run at full speed to its end."""
        self.pace.write_text("0")
        assert [process.wait(2 * HANG_SECONDS) for process in processes] == [0] * len(processes), self.printed()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    with two_hosts(tmp_path) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def undisturbed(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training in which nothing happens."""
    home = tmp_path_factory.mktemp("undisturbed")
    with two_hosts(home) as hosts:
        training = Training(home, tiny_base, hosts)
        training.finish(*training.start())
    return training


def resumed_at(training: Training) -> list[int]:
    """Return the steps at which the training went on from a checkpoint."""
    return [int(step) for step in re.findall(r"^resuming from .*: step (\d+) of", training.printed(), re.MULTILINE)]


def assert_same_result(training: Training, expected: Training) -> None:
    """Two processes add up gradients in one order only, so their steps are the same bit for bit."""
    for file in ("llm/model.safetensors", "fine-tuning/checkpoints/last/optimizer.bin"):
        assert (training.output / file).read_bytes() == (expected.output / file).read_bytes(), file
    assert read_metrics(training.output) == read_metrics(expected.output)


def test_only_the_first_host_prints_and_writes_the_run(undisturbed: Training) -> None:
    first, second = (undisturbed.log(host).read_text() for host in undisturbed.hosts)
    assert first.count("test questions") == 1
    assert "not registered: llm" in first
    assert "test questions" not in second
    assert len(list((undisturbed.output / "fine-tuning/tensorboard/trigen").glob("events.*"))) == 1


def test_a_host_that_dies_is_replaced_and_the_run_goes_on(
    undisturbed: Training, tiny_base: Path, hosts: list[Host], tmp_path: Path
) -> None:
    training = Training(tmp_path, tiny_base, hosts)
    training.pace.write_text("1")
    first, second = training.start()
    training.wait_for_step(CRASHED_AT, first, second)
    hosts[1].crash()
    assert training.steps() < STEPS
    hosts[1].boot()
    training.finish(first, *training.start(hosts[1]))
    assert resumed_at(training) in ([CRASHED_AT - 1], [CRASHED_AT])  # a step is logged before its checkpoint is written
    assert_same_result(training, undisturbed)


def test_the_death_of_the_host_with_the_rendezvous_ends_the_run_which_resumes_when_both_are_started_again(
    undisturbed: Training, tiny_base: Path, hosts: list[Host], tmp_path: Path
) -> None:
    training = Training(tmp_path, tiny_base, hosts)
    training.pace.write_text("1")
    first, second = training.start()
    training.wait_for_step(CRASHED_AT, first, second)
    hosts[0].crash()
    assert second.wait(HANG_SECONDS) == 1, training.printed()  # a scheduler sees that it failed
    assert training.steps() < STEPS
    hosts[0].boot()
    training.finish(*training.start())
    assert len(resumed_at(training)) == 1
    assert_same_result(training, undisturbed)


def test_one_host_goes_on_without_the_other_and_takes_its_replacement_in(tiny_base: Path, hosts: list[Host], tmp_path: Path) -> None:
    """One process and two take the same steps, up to rounding, so the result is that of one process from first to last."""
    take_steps_in_this_process(parse(arguments(tiny_base, tmp_path / "alone", CHANGING)))

    training = Training(tmp_path, tiny_base, hosts, "1:2", f"{CHANGING} --checkpoint-minutes 1e-9")
    training.pace.write_text("2")
    first, second = training.start()
    training.wait_for_step(CRASHED_AT, first, second)
    hosts[1].end_processes()
    training.wait_for_step(CRASHED_AT + 3, first)
    replacement = training.start(hosts[1])
    wait_until(lambda: len(resumed_at(training)) == 2, "the replacement is taken in")
    training.finish(first, *replacement)

    alone, shared = ([line for line in read_metrics(output) if line["kind"] == "train"] for output in (tmp_path / "alone", training.output))
    assert len(alone) == len(shared) == STEPS
    for step, shared_step in zip(alone, shared, strict=True):
        assert shared_step["loss"] == pytest.approx(step["loss"], rel=5e-3)
    base, expected, weights = (load_weights(path) for path in (tiny_base, tmp_path / "alone/checkpoints/last", training.output / "llm"))
    assert (weights - expected).norm() < 0.02 * (expected - base).norm()
