"""A tiny base model, one real training run with it, and one real server on what that run registered."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from benchmarks.random_base import save_random_gpt2

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
    home = tmp_path_factory.mktemp("trained")
    flags = "--max-minutes 0.4 --eval-examples 12 --max-length 768 --validations 0"
    done = run(
        ["train.py", "--base-model", str(tiny_base), "--dataset", str(QUICKSTART), "--output-dir", str(home / "runs"), *flags.split()],
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
def serve(trained: Trained, log: Path, **environment: str) -> Iterator[Server]:
    """The real service on a port of its own, from a bare `bentoml serve` in the project's root."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bentoml = shutil.which("bentoml", path=trained.environment()["PATH"])
    assert bentoml
    with log.open("w") as out:
        process = subprocess.Popen(
            [bentoml, "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=PROJECT,
            env=trained.environment() | environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log)
        yield Server(url, log, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="session")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that need no settings of their own."""
    with serve(trained, tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    """Return when the server answers `/readyz`; fail with its log where it ends or does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=2).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(f"the server is not ready after {seconds} s:\n{log.read_text()}")
