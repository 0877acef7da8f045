"""The image that `make image` builds: without a network and without root it answers as `bentoml serve` does."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from packaging.utils import canonicalize_name

from tests.conftest import HANG_SECONDS, PROJECT, Server, Trained, wait_until
from tests.test_supply import LOCK, pins

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


def container_engine() -> str | None:
    """Return the container engine that works here, chosen as in the Makefile."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    return None


def run_engine(*arguments: str, standard_input: str = "") -> str:
    """Run a command of the container engine and return its output."""
    name = container_engine()
    assert name
    done = subprocess.run([name, *arguments], input=standard_input, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def container_id(trained: Trained) -> Iterator[str]:
    """A container of an image with the models of `trained`."""
    if container_engine() is None:
        pytest.skip("neither docker nor podman works here")
    done = subprocess.run(
        ["make", "image", "IMAGE=trigen-test:latest", f"BASE_IMAGE={os.environ.get('BASE_IMAGE', '')}"],
        cwd=PROJECT,
        env=trained.environment(),
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    id = run_engine("run", "--detach", "--network", "none", "trigen-test:latest").strip()
    yield id
    run_engine("rm", "--force", id)
    run_engine("rmi", "--force", "trigen-test:latest")


def test_it_answers_like_the_service_without_network_or_root(container_id: str, server: Server) -> None:
    def is_ready() -> bool:
        probe = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz')"
        return subprocess.run([container_engine() or "", "exec", container_id, "python", "-c", probe], capture_output=True).returncode == 0

    wait_until(is_ready, "the service in the container is ready")
    responses = run_engine("exec", "--interactive", container_id, "python", "-c", ASK, standard_input=json.dumps(REQUESTS)).splitlines()
    expected = [httpx.post(server.url + route, json=body, timeout=HANG_SECONDS).json() for route, body in REQUESTS]
    assert [json.loads(response) for response in responses] == expected
    assert run_engine("exec", container_id, "id", "-u").strip() == "1034"


def test_it_installs_exactly_the_lock(container_id: str) -> None:
    program = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = dict(entry.split("==") for entry in run_engine("exec", container_id, "python", "-c", program).split())
    assert {canonicalize_name(name): version for name, version in installed.items()} == pins(LOCK)
    assert not {"torch", "transformers", "datasets", "nncf"} & installed.keys()


def test_it_does_not_start_with_a_damaged_model(container_id: str) -> None:
    damage = "truncate -s -1 models/trigen-rnn/*/lstm.safetensors && exec env/docker/entrypoint.sh"
    done = subprocess.run(
        [container_engine() or "", "run", "--rm", "--network", "none", "--entrypoint", "bash", "trigen-test:latest", "-c", damage],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode != 0
    assert re.search(r"trigen-rnn:\w+ in the model store is damaged: lstm.safetensors has \d+ bytes instead of", done.stderr), done
    assert len(done.stderr.splitlines()) == 1


# Must be the last test: it stops the container that the others need.
def test_it_stops_on_sigterm(container_id: str) -> None:
    run_engine("stop", "--time", str(HANG_SECONDS // 2), container_id)
    assert run_engine("inspect", "--format", "{{.State.ExitCode}}", container_id).strip() != "137"  # 137: SIGKILL had to end it
