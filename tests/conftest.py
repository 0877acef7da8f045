"""Shared fixtures: a tiny base model, one run of the real `train.py` with it, and real servers of the models that the run registered."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from benchmarks.random_base import save_random_gpt2
from benchmarks.serving.process import served

# Child processes inherit both variables.
# By default OpenMP's threads spin while they wait for one another. With tiny models, or on a busy machine, that takes most of the time.
# torch reads the variable when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# TF_BUILD marks a run in CI, where OpenVINO sends no usage statistics. Otherwise it sends about 50 reports for each export, each from a
# fork of the training process.
os.environ.setdefault("TF_BUILD", "True")

# Hypothesis fails an example that takes longer than 200 ms, which is a verdict on the machine.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

PROJECT = Path(__file__).resolve().parent.parent
QUICKSTART = PROJECT / "data/quickstart"
HANG_SECONDS = 300
"""The limit of every wait. It only ends a hang: whether a test passes must not depend on the speed of the machine."""
NEVER = str(4 * HANG_SECONDS)
"""A value of TRIGEN_TIMEOUT_SECONDS that no test reaches: every wait ends earlier."""
KEY = "a key"
"""The API key of the server `strict`."""


def wait_until(condition: Callable[[], bool], description: str) -> None:
    """Return when `condition` holds."""
    deadline = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {description}"
        time.sleep(0.02)


def isolated_environment(home: Path) -> dict[str, str]:
    """Return the environment of a child process that has its own stores and caches under `home` and does not use the Hub."""
    return os.environ | {
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def run(arguments: list[str], home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project with `arguments`."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=isolated_environment(home) | environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two layers with random weights and a byte-level BPE of 1,000 tokens learned from the quickstart."""
    target = tmp_path_factory.mktemp("tiny-base")
    save_random_gpt2(target, 1000, vocab_size=1000, n_positions=768, n_embd=64, n_layer=2, n_head=2)
    return target


@dataclass(frozen=True)
class Trained:
    """The output of a run of `train.py`."""

    home: Path
    output: Path
    printed: str

    def environment(self) -> dict[str, str]:
        """Return the environment in which the run's model store is the default one."""
        return isolated_environment(self.home)


TRAIN_WITH_TINY_LSTM = """
import functools, runpy
from training.word_models import fitting, lstm

fitting.RNN_EPOCHS = 2
fitting.fit_lstm = functools.partial(fitting.fit_lstm, config=lstm.LSTMConfig(width=64))
runpy.run_path("train.py", run_name="__main__")
"""
"""Runs the real script. The LSTM's size and epochs have no flags, and with --max-minutes the models would depend on the machine."""


@pytest.fixture(scope="session")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One run of `train.py` that trains all three models and registers them in its own store."""
    return train(tiny_base, tmp_path_factory.mktemp("trained"))


def train(base: Path, home: Path) -> Trained:
    """Train all three models, the LLM from `base`, and register them in a store under `home`."""
    flags = "--max-steps 8 --eval-examples 12 --max-length 768 --validations 0"
    sources = ["--base-model", str(base), "--dataset", str(QUICKSTART), "--output-dir", str(home / "runs")]
    done = run(["-c", TRAIN_WITH_TINY_LSTM, *sources, *flags.split()], home)
    assert done.returncode == 0, done.stderr
    return Trained(home, home / "runs", done.stdout)


@dataclass(frozen=True)
class Server:
    """A running `bentoml serve`."""

    url: str
    log: Path
    pid: int


@dataclass(frozen=True)
class HeldServer(Server):
    """A server that pauses in the middle of its texts when a test asks it to: see `tests/serving/held_service.py`."""

    gate: Path
    events: Path

    @contextmanager
    def texts_held(self, after: int = 1) -> Iterator[None]:
        """Pause every text after `after` tokens until this context ends. Events are counted from the beginning of the context."""
        self.events.write_text("")
        self.gate.with_suffix(".new").write_text(str(after))
        self.gate.with_suffix(".new").rename(self.gate)
        try:
            yield
        finally:
            self.gate.unlink()

    def wait_for(self, event: str, count: int) -> None:
        """Wait until `event` (started, finished, failed or closed) has happened to `count` texts."""
        wait_until(lambda: self.events.read_text().split().count(event) >= count, f"{count} texts {event}")

    def all_closed(self) -> bool:
        """Whether every text that has started has been closed."""
        events = self.events.read_text().split()
        return events.count("closed") == events.count("started")


@contextmanager
def serve(trained: Trained, log: Path, port: int | None = None, /, *, service: Sequence[str] = (), **environment: str) -> Iterator[Server]:
    """Run `bentoml serve` in the project's root, on `port` or a free one; `service` and its options come after the command.

    Each server has a home of its own with the same models, because a server deletes the metrics of others with the same home.
    """
    home = log.parent / f"{log.name}-home"
    home.mkdir()
    (home / "models").symlink_to(trained.home / "bentoml/models")
    environment = {"BENTOML_HOME": str(home)} | environment
    bentoml = shutil.which("bentoml", path=trained.environment()["PATH"])
    assert bentoml
    command = [bentoml, "serve", *service, "--host", "127.0.0.1", "--port", "PORT"]
    with served(command, "/readyz", log, trained.environment() | environment, port) as (url, process):
        yield Server(url, log, process.pid)


@contextmanager
def serve_held(trained: Trained, directory: Path, *options: str, **environment: str) -> Iterator[HeldServer]:
    """Serve `tests/serving/held_service.py`, with `options` of `bentoml serve`."""
    gate, events = directory / "gate", directory / "events"
    files = {"TRIGEN_TEST_GATE": str(gate), "TRIGEN_TEST_EVENTS": str(events)}
    service = ["tests.serving.held_service:Trigen", *options]
    with serve(trained, directory / "log", service=service, **files, **environment) as running:
        yield HeldServer(running.url, running.log, running.pid, gate, events)


@pytest.fixture(scope="session")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests that need no settings of their own. It is reproducible, because they compare texts."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serve(trained, log, TRIGEN_REPRODUCIBLE="true", TRIGEN_TIMEOUT_SECONDS=NEVER) as running:
        yield running


@pytest.fixture(scope="session")
def strict(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldServer]:
    """A server that requires a key, admits 16 texts and lets 16 wait, pings often, and logs JSON."""
    settings = {
        "TRIGEN_API_KEY": KEY,
        "TRIGEN_MAX_TEXTS": "16",
        "TRIGEN_MAX_WAITING": "16",
        "TRIGEN_LOG_FORMAT": "json",
        "TRIGEN_MAX_BODY_BYTES": "20000",
        "TRIGEN_PING_SECONDS": "0.1",
        "TRIGEN_TIMEOUT_SECONDS": NEVER,
    }
    with serve_held(trained, tmp_path_factory.mktemp("strict"), **settings) as running:
        yield running


@pytest.fixture(scope="session")
def hurried(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldServer]:
    """A server whose requests time out after two seconds, and which admits 16 texts."""
    settings = {"TRIGEN_TIMEOUT_SECONDS": "2", "TRIGEN_MAX_TEXTS": "16"}
    with serve_held(trained, tmp_path_factory.mktemp("hurried"), **settings) as running:
        yield running
