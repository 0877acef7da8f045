"""The image: built by `make image`, run without a network and without root, it answers what `bentoml serve` answers."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import PROJECT, Server, Trained

pytestmark = pytest.mark.slow

REQUESTS = [
    ("/generate_text", {"start_word": "The", "length": 20, "seed": 1}),
    ("/generate_with_rnn", {"start_word": "The", "length": 20, "seed": 1}),
    ("/generate_with_llm", {"start_word": "The lighthouse", "length": 20, "seed": 1}),
    ("/answer_question", {"question": "Who built it?", "context": "It was built by Anna Berg."}),
]
ASK = """
import json, sys, urllib.request
for route, body in json.load(sys.stdin):
    request = urllib.request.Request("http://127.0.0.1:3000" + route, json.dumps(body).encode(), {"Content-Type": "application/json"})
    print(urllib.request.urlopen(request).read().decode())
"""


def engine() -> str | None:
    """The container engine that works here, as the Makefile chooses it."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    return None


def container(*arguments: str, standard_input: str = "") -> str:
    name = engine()
    assert name
    done = subprocess.run([name, *arguments], input=standard_input, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def running(trained: Trained) -> Iterator[str]:
    """A container of the image made from the store of `trained`."""
    if engine() is None:
        pytest.skip("no container engine that works: neither docker nor podman")
    made = subprocess.run(
        ["make", "image", "IMAGE=trigen-test:latest", f"BASE_IMAGE={os.environ.get('BASE_IMAGE', '')}"],
        cwd=PROJECT,
        env=trained.environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    id = container("run", "--detach", "--network", "none", "trigen-test:latest").strip()
    yield id
    container("rm", "--force", id)
    container("rmi", "--force", "trigen-test:latest")


def test_it_answers_as_the_service_does_without_network_and_root(running: str, server: Server) -> None:
    def ready() -> bool:
        probe = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz')"
        return subprocess.run([engine() or "", "exec", running, "python", "-c", probe], capture_output=True).returncode == 0

    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline, container("logs", running)
        time.sleep(1)
    answers = container("exec", "--interactive", running, "python", "-c", ASK, standard_input=json.dumps(REQUESTS)).splitlines()
    expected = [httpx.post(server.url + route, json=body, timeout=60).json() for route, body in REQUESTS]
    assert [json.loads(answer) for answer in answers] == expected
    assert container("exec", running, "id", "-u").strip() == "1034"


def test_it_holds_no_training_library(running: str) -> None:
    packages = container("exec", running, "python", "-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))")
    assert not {"torch", "transformers", "datasets", "nncf"} & set(packages.split())
    assert {"bentoml", "openvino-genai"} <= set(packages.split())


def test_it_stops_at_once_when_told(running: str, tmp_path: Path) -> None:
    began = time.monotonic()
    container("stop", "--time", "20", running)
    assert time.monotonic() - began < 10
