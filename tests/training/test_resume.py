"""The real script: killed, terminated and resumed, and in two processes at once."""

import json
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import QUICKSTART, run
from training.config import Config, parse
from training.data.squad import load_splits
from training.device import build_accelerator
from training.fine_tuning.base_model import load_base
from training.fine_tuning.loop import FineTuner
from training.fine_tuning.metrics_log import MetricsLog
from training.fine_tuning.pipeline import encode_all, encoding_config, split_data
from training.interruption import Interruption
from training.run import FINE_TUNING

LLM_FLAGS = (  # 11 steps an epoch, so that the 24 end in the third; validations follow step 12, in the second, and step 24
    "--only llm --no-register --epochs 3 --max-steps 24 --max-train-examples 100 --max-length 512 --batch-tokens 1024 "
    "--learning-rate 2e-3 --validations 2 --validation-examples 12 --eval-examples 12 --no-int8-check --dropout 0.1"
)
CHANGING = f"{LLM_FLAGS} --max-steps 20 --dropout 0 --validations 0"
KILLED_AT, TERMINATED_AT = 6, 14  # in the first epoch, and in the second, after the first validation
ONE_FROM, TWO_FROM = 7, 14  # two processes take the first steps, one those after the first of these numbers, two the last ones
LSTM_KILLED_AT, LSTM_TERMINATED_AT = 6, 50  # likewise; an epoch has 33 windows
LSTM_FLAGS = "--only rnn --no-register"
EVERY_STEP = "--checkpoint-minutes 1e-9"
TIMES = {"seconds", "tokens_per_second"}

RUN_IN_FORKS = """
import functools, json, os, runpy, sys
import nncf, openvino
import training.comparison.measurement, training.comparison.report, training.fine_tuning.pipeline
from models.llm import LLM
from training.fine_tuning.metrics_log import MetricsLog
from training.word_models import fitting
from training.word_models.lstm import LSTMConfig
from training.word_models.lstm_training import LSTMTrainer

# Otherwise the engine rounds an answer's probability by the composition of its batches, which depends on when questions arrive.
LLM.load = functools.partial(LLM.load, reproducible=True)
# The LSTM's size and epochs have no flags.
fitting.RNN_EPOCHS = 3
fitting.fit_lstm = functools.partial(fitting.fit_lstm, config=LSTMConfig(width=32, cutoffs=(300, 900)))


def fork(work):
    if (child := os.fork()) == 0:
        try:
            work()
        except SystemExit as exit:
            os._exit(exit.code or 0)
        os._exit(0)
    return child


def send_signal_at(step, number):
    log, train_window = MetricsLog.log, LSTMTrainer.train_window

    def log_and_signal(self, kind, logged, **values):
        log(self, kind, logged, **values)
        if (kind, logged) == ("train", step):
            os.kill(os.getpid(), number)

    def train_window_and_signal(self, window, rate):
        loss = train_window(self, window, rate)
        if self.progress.steps + 1 == step:
            os.kill(os.getpid(), number)
        return loss

    MetricsLog.log, LSTMTrainer.train_window = log_and_signal, train_window_and_signal


def train(run):
    with open(run["log"], "w", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.environ.update(run["environment"])
        sys.argv = ["train.py", *run["arguments"]]
        if run["signal_at"]:
            send_signal_at(*run["signal_at"])
        try:
            runpy.run_path("train.py", run_name="__main__")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


def train_in_turn(runs):
    for run in runs:
        status = os.waitstatus_to_exitcode(os.waitpid(fork(lambda: train(run)), 0)[1])
        with open(run["log"] + ".status", "w") as file:
            file.write(str(status))


for child in [fork(lambda: train_in_turn(runs)) for runs in json.loads(sys.argv[1])]:
    os.waitpid(child, 0)
"""
"""Runs `train.py` in forks of a process that has imported its libraries: importing them takes longer than one of these runs. The argument
is a list of chains, which run side by side; the runs of a chain follow one another. A run can send a signal to itself after a step, so that
no test has to hit the right moment."""


@dataclass
class Run:
    """A run of `train.py`. Its output, log and exit status are there when it has ended."""

    output: Path
    log: Path
    arguments: list[str]
    environment: dict[str, str]
    signal_at: tuple[int, int] | None = None
    """The step after which the run sends a signal to itself, and the signal."""

    @property
    def printed(self) -> str:
        return self.log.read_text()

    @property
    def status(self) -> int:
        return int(Path(f"{self.log}.status").read_text())


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without times."""

    def without_times(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in TIMES}

    return [json.loads(line, object_hook=without_times) for line in (output / "fine-tuning/metrics.jsonl").read_text().splitlines()]


def arguments(base: Path, output: Path, flags: str) -> list[str]:
    return ["--base-model", str(base), "--dataset", str(QUICKSTART), "--output-dir", str(output), *flags.split()]


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The runs of these tests, by name; all of them have ended."""
    home = tmp_path_factory.mktemp("runs")

    def plan(name: str, output: str, flags: str, rank: dict[str, str] | None = None, signal_at: tuple[int, int] | None = None) -> Run:
        return Run(home / output, home / f"{name}.log", arguments(tiny_base, home / output, flags), rank or {}, signal_at)

    def two_processes() -> list[dict[str, str]]:
        """Return the variables that torchrun sets, for each of two processes that work together."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        return [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]

    first, again = two_processes(), two_processes()
    chains = [
        [
            plan("uninterrupted", "uninterrupted", LLM_FLAGS),
            plan("LSTM uninterrupted", "LSTM uninterrupted", LSTM_FLAGS),
        ],
        [
            plan("LSTM killed", "LSTM interrupted", f"{LSTM_FLAGS} {EVERY_STEP}", signal_at=(LSTM_KILLED_AT, signal.SIGKILL)),
            plan("LSTM terminated", "LSTM interrupted", f"{LSTM_FLAGS} --resume", signal_at=(LSTM_TERMINATED_AT, signal.SIGTERM)),
            plan("LSTM resumed", "LSTM interrupted", f"{LSTM_FLAGS} --resume"),
            plan("killed", "interrupted", f"{LLM_FLAGS} {EVERY_STEP}", signal_at=(KILLED_AT, signal.SIGKILL)),
            plan("terminated", "interrupted", f"{LLM_FLAGS} --resume", signal_at=(TERMINATED_AT, signal.SIGTERM)),
            plan("resumed", "interrupted", f"{LLM_FLAGS} --resume"),
        ],
        [
            plan("two, rank 0", "changing", CHANGING, first[0], signal_at=(ONE_FROM - 1, signal.SIGTERM)),
            plan("one", "changing", f"{CHANGING} --resume", signal_at=(TWO_FROM - 1, signal.SIGTERM)),
            plan("two again, rank 0", "changing", f"{CHANGING} --resume --only rnn llm", again[0]),
        ],
        [  # each waits for rank 0
            plan("two, rank 1", "changing", CHANGING, first[1]),
            plan("two again, rank 1", "changing", f"{CHANGING} --resume --only rnn llm", again[1]),
        ],
    ]
    description = [
        [{"log": str(r.log), "arguments": r.arguments, "environment": r.environment, "signal_at": r.signal_at} for r in chain]
        for chain in chains
    ]
    done = run(["-c", RUN_IN_FORKS, json.dumps(description)], home, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return {r.log.stem: r for chain in chains for r in chain}


def test_a_run_leaves_metrics_plots_a_report_and_its_best_weights(runs: dict[str, Run]) -> None:
    assert runs["uninterrupted"].status == 0, runs["uninterrupted"].printed
    output = runs["uninterrupted"].output
    assert runs["uninterrupted"].printed.endswith(f"not registered: llm in {output}\n")
    work = output / "fine-tuning"
    files = {"metrics.jsonl", "tensorboard", "report.md", "loss.png", "scores.png", "best", "checkpoints"}
    assert {path.name for path in work.iterdir()} >= files
    assert list((work / "tensorboard/trigen").glob("events.out.tfevents.*"))
    assert (output / "llm/report.md").read_bytes() == (work / "report.md").read_bytes()
    assert (output / "llm/loss.png").read_bytes().startswith(b"\x89PNG")
    report = (work / "report.md").read_text()
    for text in ("exact match", "bits per byte on held-out contexts", "| learning_rate | 0.002 |", "## The last validation's answers"):
        assert text in report
    lines = read_metrics(output)
    kinds = [line["kind"] for line in lines]
    assert (kinds.count("base"), kinds.count("train"), kinds.count("validation"), kinds.count("test")) == (1, 24, 2, 1)
    registered, best = output / "llm/model.safetensors", work / "best/model.safetensors"
    assert registered.read_bytes() == best.read_bytes()
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert sum(losses[-8:]) < 0.95 * sum(losses[:8])  # without learning they differ by less


def test_a_killed_and_then_terminated_run_resumes_bit_for_bit(runs: dict[str, Run]) -> None:
    assert runs["killed"].status == -signal.SIGKILL, runs["killed"].printed
    terminated, resumed = runs["terminated"], runs["resumed"]
    assert terminated.status == 143
    assert f"step {KILLED_AT - 1} of" in terminated.printed  # the kill lost the step after the last checkpoint
    assert "the checkpoint is written, --resume continues from it" in terminated.printed
    assert "Traceback" not in terminated.printed
    assert resumed.status == 0, resumed.printed
    # The signal came after step TERMINATED_AT: the run ended after the next one, and lost nothing.
    assert f"step {TERMINATED_AT + 1} of" in resumed.printed

    output, expected = resumed.output, runs["uninterrupted"].output
    for file in ("llm/model.safetensors", "fine-tuning/checkpoints/last/model.safetensors", "fine-tuning/checkpoints/last/optimizer.bin"):
        assert (output / file).read_bytes() == (expected / file).read_bytes(), file
    assert read_metrics(output) == read_metrics(expected)


def test_an_lstm_whose_fit_was_killed_and_then_terminated_resumes_bit_for_bit(runs: dict[str, Run]) -> None:
    assert runs["LSTM killed"].status == -signal.SIGKILL, runs["LSTM killed"].printed
    terminated, resumed = runs["LSTM terminated"], runs["LSTM resumed"]
    assert terminated.status == 143
    assert f"epoch 1 of up to 3, window {LSTM_KILLED_AT - 1} of 33" in terminated.printed
    assert "the checkpoint is written, --resume continues from it" in terminated.printed
    assert "Traceback" not in terminated.printed
    assert resumed.status == 0, resumed.printed
    assert f"epoch 2 of up to 3, window {LSTM_TERMINATED_AT - 33} of 33" in resumed.printed

    expected = runs["LSTM uninterrupted"].output
    assert (resumed.output / "rnn/lstm.safetensors").read_bytes() == (expected / "rnn/lstm.safetensors").read_bytes()
    metrics, expected_metrics = (json.loads((output / "metrics.json").read_text())["rnn"] for output in (resumed.output, expected))
    assert metrics | {"seconds": None} == expected_metrics | {"seconds": None}
    assert not (resumed.output / "rnn/checkpoints").exists()


def take_steps_in_this_process(config: Config) -> None:
    """Take the training steps that `train.py` takes with `config`."""
    splits = load_splits(config.dataset)
    model, tokenizer = load_base(config.base_model, config.max_length, config.dropout)
    train = split_data(splits, tokenizer, config).train
    sequences = encode_all(train, tokenizer, encoding_config(config, train), config)
    accelerator = build_accelerator()
    log = MetricsLog(config.output_dir / FINE_TUNING, accelerator)
    tuner = FineTuner(model, sequences, config, None, accelerator, log, config.output_dir / "checkpoints", lambda _: {})
    tuner.run(Interruption())
    log.close()


def test_one_and_two_processes_take_the_same_steps_and_resume_each_other(runs: dict[str, Run], tiny_base: Path, tmp_path: Path) -> None:
    names = ("two, rank 0", "two, rank 1", "one", "two again, rank 0", "two again, rank 1")
    _, _, one, last, other_last = (runs[name] for name in names)
    assert [runs[name].status for name in names] == [143, 143, 143, 0, 0], last.printed + other_last.printed
    assert [run.printed.count("test questions") for run in (last, other_last)] == [1, 0]  # only the main process prints
    assert f"step {ONE_FROM} of" in one.printed
    assert f"step {TWO_FROM} of" in last.printed

    take_steps_in_this_process(parse(arguments(tiny_base, tmp_path, CHANGING)))
    expected, changing = ([line for line in read_metrics(output) if line["kind"] == "train"] for output in (tmp_path, last.output))
    assert len(expected) == len(changing) == 20
    for step, changed_step in zip(expected, changing, strict=True):
        assert changed_step["loss"] == pytest.approx(step["loss"], rel=5e-3)
        assert changed_step["gradient_norm"] == pytest.approx(step["gradient_norm"], rel=5e-2)
    checkpoints = last.output / "fine-tuning/checkpoints"
    base, alone, resumed = (load_weights(directory) for directory in (tiny_base, tmp_path / "checkpoints/last", checkpoints / "last"))
    assert (resumed - alone).norm() < 0.02 * (alone - base).norm()

    states = [{path.name for path in directory.glob("random_states_*")} for directory in sorted(checkpoints.glob("step-*"))]
    assert states == [{"random_states_0.pkl"}, {"random_states_0.pkl", "random_states_1.pkl"}]
    assert os.path.samefile(checkpoints / "last", checkpoints / "step-00000020")
    # The LSTM is fitted last: the other process has ended by then, and has not waited for it.
    assert list(json.loads((last.output / "metrics.json").read_text())) == ["llm", "rnn"]


def load_weights(directory: Path) -> torch.Tensor:
    """Return all weights of a checkpoint or a model, as one vector."""
    weights = load_file(directory / "model.safetensors")
    return torch.cat([weights[name].float().flatten() for name in sorted(weights)])
