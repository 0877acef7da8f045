"""A replica: a real `bentoml serve` that can be killed and rolled. All replicas share one model store."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil

from benchmarks.serving.process import end, free_port, wait_until_ready
from tests.conftest import HANG_SECONDS, PROJECT, Trained, isolated_environment, run

DRAIN_SECONDS = 3
"""TRIGEN_DRAIN_SECONDS: haproxy sees within two seconds that a replica is no longer ready."""
REGISTER = """
import sys
from pathlib import Path
from models.store.registration import Artifact, register

register({name: Artifact(Path(sys.argv[1]) / name, {}) for name in ("bigram", "rnn", "llm")})
"""


class Store:
    """A copy of the model store of a training run."""

    def __init__(self, trained: Trained, home: Path) -> None:
        self._home = home
        self._artifacts = trained.output
        shutil.copytree(trained.home / "bentoml/models", self.models)

    @property
    def models(self) -> Path:
        """Its directory."""
        return self._home / "bentoml/models"

    def register_models(self) -> None:
        """Register new versions of all models. They have the same weights, so they write the same texts."""
        done = run(["-c", REGISTER, str(self._artifacts)], self._home)
        assert done.returncode == 0, done.stderr


class Replica:
    """A replica that listens on the same port each time it starts. It is reproducible, so that every answer can be checked."""

    def __init__(self, store: Store, home: Path, settings: dict[str, str]) -> None:
        self.port = free_port()
        self._home = home
        self._settings = {"TRIGEN_REPRODUCIBLE": "true", "TRIGEN_DRAIN_SECONDS": str(DRAIN_SECONDS)} | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        (home / "bentoml").mkdir(parents=True)
        (home / "bentoml/models").symlink_to(store.models)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        environment = isolated_environment(self._home) | self._settings
        bentoml = shutil.which("bentoml", path=environment["PATH"])
        assert bentoml
        self._starts += 1
        log = self._home / f"log-{self._starts}"
        with log.open("w") as out:
            command = [bentoml, "serve", "--host", "127.0.0.1", "--port", str(self.port)]
            self._process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=out, stderr=out, start_new_session=True)
        wait_until_ready(f"{self.url}/readyz", self._process, log)

    def kill(self) -> None:
        """Kill all of its processes at once with SIGKILL."""
        assert self._process
        main = psutil.Process(self._process.pid)
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            process.kill()
        self._process.wait(HANG_SECONDS)
        psutil.wait_procs(processes, HANG_SECONDS)
        assert not any(process.is_running() for process in processes)

    def stop(self) -> None:
        """Send SIGTERM to its main process, as a container engine does, and wait until it has exited with status 0."""
        assert self._process
        os.kill(self._process.pid, signal.SIGTERM)
        assert self._process.wait(HANG_SECONDS) == 0

    def close(self) -> None:
        """End whatever is left of it."""
        if self._process:
            end(self._process)
