"""An empty store, and a real S3 server."""

import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from benchmarks.serving.process import free_port
from tests.conftest import PROJECT, wait_until

MOTO = PROJECT / ".venv-s3/bin/moto_server"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@contextmanager
def store_in(home: Path) -> Iterator[Path]:
    """Use the store in `home` in place of the one in BENTOML_HOME, which BentoML reads once per process."""
    directory = home / "models"
    directory.mkdir(parents=True, exist_ok=True)
    providers = (BentoMLContainer.model_store, BentoMLContainer.model_store_dir)
    for provider, value in zip(providers, (ModelStore(directory), str(directory)), strict=True):
        provider.set(value)
    try:
        yield directory
    finally:
        for provider in providers:
            provider.reset()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """An empty store."""
    with store_in(tmp_path / "home") as directory:
        yield directory


@dataclass(frozen=True)
class S3Server:
    """A running S3 server."""

    endpoint: str
    log: Path

    def environment(self) -> dict[str, str]:
        """Return the variables of its clients."""
        return CREDENTIALS | {"AWS_ENDPOINT_URL": self.endpoint}

    def requests(self) -> list[str]:
        """Return the requests so far: method and path."""
        return re.findall(r'"(?:\x1b\[\d+m)*((?:GET|HEAD|PUT|POST|DELETE) \S+)', self.log.read_text())

    def make_bucket(self, name: str) -> str:
        """Make a bucket. Returns its URL."""
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")).close()
        return f"s3://{name}"


@contextmanager
def s3_server(log: Path, **environment: str) -> Iterator[S3Server]:
    """Run a S3 server."""
    if not MOTO.exists():
        pytest.skip("there is no S3 server: run `make test`, which installs tests/requirements-s3.txt")
    port = free_port()
    with log.open("w") as out:
        process = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(port)], env=os.environ | environment, stdout=out, stderr=out)
    try:
        wait_until(lambda: process.poll() is not None or "Running on" in log.read_text(), "the S3 server listens")
        yield S3Server(f"http://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server for all tests."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as server:
        yield server
