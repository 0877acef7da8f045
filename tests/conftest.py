"""A tiny base model, one real training run with it, and one real server on what that run registered."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.random_base import save_random_gpt2
from benchmarks.serving.process import served

# Here and, inherited, in every child process:
# Threads that wait for one another sleep. By default OpenMP has them spin: with tiny models, and whenever something else wants the cores
# too, most of the time goes there. It is read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# OpenVINO takes this for a build pipeline, where it sends no usage statistics. It would send some 50 for each export, each from a fork of
# the process that trains.
os.environ.setdefault("TF_BUILD", "True")

PROJECT = Path(__file__).resolve().parent.parent
QUICKSTART = PROJECT / "data/quickstart"


def isolated_environment(home: Path) -> dict[str, str]:
    """The environment of a child process: no Hub, stores and caches of its own under `home`."""
    return os.environ | {
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def run(arguments: list[str], home: Path, timeout: float = 240, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project with `arguments`."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=isolated_environment(home) | changes,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two layers with random weights and a byte-level BPE of 1,000 tokens learned from the quickstart."""
    target = tmp_path_factory.mktemp("tiny-base")
    save_random_gpt2(target, 1000, vocab_size=1000, n_positions=768, n_embd=64, n_layer=2, n_head=2)
    return target


@dataclass(frozen=True)
class Trained:
    """What `train.py` printed and left behind."""

    home: Path
    output: Path
    printed: str

    def environment(self) -> dict[str, str]:
        """The environment in which its store is the store."""
        return isolated_environment(self.home)


@pytest.fixture(scope="session")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One run of the real `train.py` for all three models, registered in a store of its own."""
    return train(tiny_base, tmp_path_factory.mktemp("trained"))


def train(base: Path, home: Path) -> Trained:
    """As `trained`, from another base model."""
    flags = "--max-minutes 0.4 --eval-examples 12 --max-length 768 --validations 0"
    done = run(
        ["train.py", "--base-model", str(base), "--dataset", str(QUICKSTART), "--output-dir", str(home / "runs"), *flags.split()],
        home,
    )
    assert done.returncode == 0, done.stderr
    return Trained(home, home / "runs", done.stdout)


@dataclass(frozen=True)
class Server:
    """A running `bentoml serve`."""

    url: str
    log: Path
    pid: int


@contextmanager
def serve(trained: Trained, log: Path, arguments: Sequence[str] = (), **environment: str) -> Iterator[Server]:
    """The real service on a port of its own, from a bare `bentoml serve` in the project's root."""
    bentoml = shutil.which("bentoml", path=trained.environment()["PATH"])
    assert bentoml
    command = [bentoml, "serve", "--host", "127.0.0.1", "--port", "PORT", *arguments]
    with served(command, "/readyz", log, trained.environment() | environment) as (url, process):
        yield Server(url, log, process.pid)


@pytest.fixture(scope="session")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that need no settings of their own, which compare texts."""
    with serve(trained, tmp_path_factory.mktemp("server") / "log", TRIGEN_REPRODUCIBLE="true") as running:
        yield running
