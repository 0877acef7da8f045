"""The real script, killed, interrupted, resumed, and run by two processes at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT, QUICKSTART, isolated_environment, run
from training.config import Config, parse
from training.data.encoding import encode
from training.data.selection import split_contexts
from training.data.squad import load_splits
from training.device import build_accelerator
from training.fine_tuning.base_model import load_base
from training.fine_tuning.loop import FineTuner
from training.fine_tuning.metrics_log import MetricsLog
from training.fine_tuning.pipeline import encoding_config
from training.interruption import Interruption
from training.run import FINE_TUNING

FLAGS = (  # 22 steps an epoch: 48 end in the middle of the third, and are validated after 24, in the second, and at the end
    "--only llm --no-register --epochs 3 --max-steps 48 --max-train-examples 200 --max-length 512 --batch-tokens 1024 "
    "--learning-rate 1e-3 --validations 2 --validation-examples 12 --eval-examples 12 --no-int8-check --dropout 0.1"
)
TIMES = {"seconds", "tokens_per_second"}


def command(tiny_base: Path, output: Path, *more: str) -> list[str]:
    return ["train.py", "--base-model", str(tiny_base), "--dataset", str(QUICKSTART), "--output-dir", str(output), *FLAGS.split(), *more]


def metrics(output: Path, score: Callable[[float], object] = float) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the clock's, and `score` of the mean probabilities of answers."""

    def kept(values: dict[str, Any]) -> dict[str, Any]:
        return {name: score(value) if name == "score" else value for name, value in values.items() if name not in TIMES}

    return [json.loads(line, object_hook=kept) for line in (output / "fine-tuning/metrics.jsonl").read_text().splitlines()]


def start(arguments: list[str], home: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=PROJECT, env=isolated_environment(home), stdout=file, stderr=subprocess.STDOUT
        )


def wait_for_step(process: subprocess.Popen[bytes], output: Path, step: int, seconds: float = 120) -> None:
    """Return when the run has logged `step`."""
    path, deadline = output / "fine-tuning/metrics.jsonl", time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and sum('"train"' in line for line in path.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"step {step} was not reached: {path}")


@pytest.fixture(scope="module")
def uninterrupted(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("uninterrupted")
    done = run(command(tiny_base, home / "out"), home)
    assert done.returncode == 0, done.stderr
    return home / "out"


def assert_same(output: Path, expected: Path) -> None:
    """Weights, optimizer, curves and scores, bit for bit."""
    for file in ("llm/model.safetensors", "fine-tuning/checkpoints/last/model.safetensors", "fine-tuning/checkpoints/last/optimizer.bin"):
        assert (output / file).read_bytes() == (expected / file).read_bytes(), file
    # The engine rounds an answer's probability otherwise when it meets other questions on the way: they come at their own pace.
    assert metrics(output) == metrics(expected, lambda score: pytest.approx(score, rel=1e-2))


def test_the_run_itself_leaves_what_people_look_at(uninterrupted: Path) -> None:
    work = uninterrupted / "fine-tuning"
    assert {path.name for path in work.iterdir()} >= {
        "metrics.jsonl",
        "tensorboard",
        "report.md",
        "loss.png",
        "scores.png",
        "best",
        "checkpoints",
    }
    assert list((work / "tensorboard").glob("events.out.tfevents.*"))
    assert (uninterrupted / "llm/report.md").read_bytes() == (work / "report.md").read_bytes()
    assert (uninterrupted / "llm/loss.png").read_bytes().startswith(b"\x89PNG")
    report = (work / "report.md").read_text()
    for text in ("exact match", "bits per byte on held-out contexts", "| learning_rate | 0.001 |", "## The last validation's answers"):
        assert text in report
    kinds = [line["kind"] for line in metrics(uninterrupted)]
    assert (kinds.count("base"), kinds.count("train"), kinds.count("validation"), kinds.count("test")) == (1, 48, 2, 1)
    registered, best = uninterrupted / "llm/model.safetensors", work / "best/model.safetensors"
    assert registered.read_bytes() == best.read_bytes()
    losses = [line["loss"] for line in metrics(uninterrupted) if line["kind"] == "train"]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])  # what nothing was learned from differs by less


def test_killed_then_terminated_it_resumes_bit_for_bit(uninterrupted: Path, tiny_base: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    killed = start(command(tiny_base, output, "--checkpoint-minutes", "0.002"), tmp_path, log)
    wait_for_step(killed, output, 12)  # in the middle of an epoch
    killed.kill()
    killed.wait()
    assert list((output / "fine-tuning/checkpoints").glob("step-*"))

    terminated = start(command(tiny_base, output, "--resume"), tmp_path, log)
    wait_for_step(terminated, output, 26)  # after the first validation, in the next epoch
    began = time.monotonic()
    terminated.send_signal(signal.SIGTERM)
    assert terminated.wait(30) == 0
    assert time.monotonic() - began < 10
    printed = log.read_text()
    assert "going on from" in printed
    assert "the checkpoint is written, --resume goes on from it" in printed
    assert "Traceback" not in printed
    steps = sum(line["kind"] == "train" for line in metrics(output))
    assert (output / f"fine-tuning/checkpoints/step-{steps:08d}").is_dir()  # it lost nothing

    resumed = run(command(tiny_base, output, "--resume"), tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(output, uninterrupted)


def steps_of_one(config: Config) -> None:
    """Take the steps that the script takes with `config`, in this process."""
    splits = load_splits(config.dataset)
    train, _ = split_contexts(splits.train, config.max_train_examples or len(splits.train), config.seed)
    model, tokenizer = load_base(config.base_model, config.max_length, config.dropout)
    sequences = encode(train, tokenizer, encoding_config(config))
    records = MetricsLog(config.output_dir / FINE_TUNING)
    tuning = FineTuner(model, sequences, config, None, build_accelerator(), records, config.output_dir / "checkpoints", lambda _: {})
    tuning.run(Interruption())
    records.close()


def test_two_processes_take_the_steps_of_one(tiny_base: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    more = ("--max-steps", "30", "--dropout", "0", "--validations", "0")
    steps_of_one(parse(command(tiny_base, alone, *more)[1:]))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run([*launch, *command(tiny_base, together, *more)], tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test questions") == 1  # the main process speaks for both
    one, two = ([line for line in metrics(output) if line["kind"] == "train"] for output in (alone, together))
    assert len(one) == len(two) == 30
    for first, second in zip(one, two, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=5e-3)
        assert second["gradient_norm"] == pytest.approx(first["gradient_norm"], rel=5e-2)
    last = together / "fine-tuning/checkpoints/last"
    assert os.path.samefile(last, together / "fine-tuning/checkpoints/step-00000030")
    assert {path.name for path in last.glob("random_states_*")} == {"random_states_0.pkl", "random_states_1.pkl"}  # they were two
