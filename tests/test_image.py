"""The image that `make image` builds: with the fewest privileges it answers as `bentoml serve` does, and it holds only what that needs."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.utils import canonicalize_name

from serving import __version__
from tests.conftest import HANG_SECONDS, PROJECT, Server, Trained, isolated_environment, run, wait_until
from tests.test_supply import LOCK, pins

pytestmark = pytest.mark.slow

NAME = "trigen-test:latest"
MODELS_AND_BASE_BYTES = 300_000_000
"""What the weights of a small LLM and the base's files may add to an image of 0.9 GB."""
LEAST_PRIVILEGES = ("--network", "none", "--read-only", "--cap-drop", "ALL", "--user", "12345:54321")
BUILD_TOOLS = ("pip", "pip3", "uv", "conda", "git", "cc", "gcc", "g++", "c++", "clang", "ld", "as", "make", "cargo")
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


def build(home: Path, name: str) -> None:
    """Build the image `name` of the models in the store under `home`."""
    command = ["make", "image", f"IMAGE={name}"]
    command += [f"{name}={os.environ[name]}" for name in ("BASE_IMAGE", "CONTAINERIZE") if os.environ.get(name)]
    done = subprocess.run(command, cwd=PROJECT, env=isolated_environment(home), capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def inspect(name: str) -> dict[str, Any]:
    """Return what the container engine knows about an image."""
    (image,) = json.loads(run_engine("image", "inspect", name))
    assert isinstance(image, dict)
    return image


@pytest.fixture(scope="module")
def image(trained: Trained) -> Iterator[dict[str, Any]]:
    """The image of the models of `trained`, as the container engine describes it."""
    if container_engine() is None:
        pytest.skip("neither docker nor podman works here")
    build(trained.home, NAME)
    yield inspect(NAME)
    run_engine("rmi", "--force", NAME)


@pytest.fixture(scope="module")
def container_id(image: dict[str, Any]) -> Iterator[str]:
    """A container that runs with the fewest privileges, as a user that the image does not know."""
    id = run_engine("run", "--detach", *LEAST_PRIVILEGES, NAME).strip()
    yield id
    run_engine("rm", "--force", "--volumes", id)


def shell(container_id: str, command: str) -> list[str]:
    """Run a command in the container and return the lines of its output."""
    return run_engine("exec", "--user", "0", container_id, "sh", "-c", command).splitlines()


def test_it_answers_like_the_service_with_the_fewest_privileges(container_id: str, image: dict[str, Any], server: Server) -> None:
    check = (image["Config"].get("Healthcheck") or image["Healthcheck"])["Test"]  # podman lists it beside Config
    assert check[0] == "CMD"

    def is_healthy() -> bool:
        return subprocess.run([container_engine() or "", "exec", container_id, *check[1:]], capture_output=True).returncode == 0

    wait_until(is_healthy, "the service in the container is ready")
    responses = run_engine("exec", "--interactive", container_id, "python", "-c", ASK, standard_input=json.dumps(REQUESTS)).splitlines()
    expected = [httpx.post(server.url + route, json=body, timeout=HANG_SECONDS).json() for route, body in REQUESTS]
    assert [json.loads(response) for response in responses] == expected
    assert run_engine("exec", container_id, "id", "-u").strip() == "12345"
    assert image["Config"]["User"] == "1034:1034"


def test_it_installs_exactly_the_lock(container_id: str) -> None:
    program = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = dict(entry.split("==") for entry in run_engine("exec", container_id, "python", "-c", program).split())
    assert {canonicalize_name(name): version for name, version in installed.items()} == pins(LOCK)
    assert not {"torch", "transformers", "datasets", "nncf"} & installed.keys()


def test_it_lists_its_packages(container_id: str) -> None:
    bill = json.loads("".join(shell(container_id, "cat src/image/sbom.cdx.json")))
    assert bill["bomFormat"] == "CycloneDX"
    assert {canonicalize_name(part["name"]): part["version"] for part in bill["components"]} == pins(LOCK)


def test_it_holds_only_what_runs(container_id: str, image: dict[str, Any]) -> None:
    assert shell(container_id, f"for tool in {' '.join(BUILD_TOOLS)}; do command -v $tool; done; true") == []
    names = "-name pip -o -name setuptools -o -name torch -o -name '*.whl' -o -name '*.deb' -o -name .cache"
    assert shell(container_id, f"find / -xdev -type d -path '*-packages/openvino' -prune -o \\( {names} \\) -print") == []
    assert shell(container_id, "find models/trigen-llm -name '*.safetensors*'") == []
    assert shell(container_id, "find models/trigen-llm -name openvino_model.bin") != []
    assert image["Size"] < 900_000_000 - MODELS_AND_BASE_BYTES


def test_its_labels_say_what_it_is(image: dict[str, Any], trained: Trained) -> None:
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])
    assert sorted(labels["trigen.models"].split()) == sorted(trained.printed.splitlines()[-1].removeprefix("registered: ").split(", "))


def test_it_does_not_start_with_a_damaged_model(image: dict[str, Any]) -> None:
    damage = "truncate -s -1 models/trigen-rnn/*/lstm.safetensors && exec env/docker/entrypoint.sh"
    done = subprocess.run(
        [container_engine() or "", "run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "bash", NAME, "-c", damage],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode != 0
    assert re.search(r"trigen-rnn:\w+ in the model store is damaged: lstm.safetensors has \d+ bytes instead of", done.stderr), done
    messages = [line for line in done.stderr.splitlines() if "healthcheck" not in line]  # of podman, where systemd does not run
    assert len(messages) == 1


def test_a_new_llm_replaces_its_layer_and_the_last(image: dict[str, Any], trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.home / "bentoml/models", tmp_path / "bentoml/models")
    program = """
from pathlib import Path
from models.store import find
from models.store.registration import Artifact, register
llm = Path(find("llm").path)
(llm / "model.yaml").unlink()
register({"llm": Artifact(llm, {})})
"""
    done = run(["-c", program], tmp_path)
    assert done.returncode == 0, done.stderr
    build(tmp_path, "trigen-test:newer")
    newer = inspect("trigen-test:newer")
    run_engine("rmi", "--force", "trigen-test:newer")
    before, after = image["RootFS"]["Layers"], newer["RootFS"]["Layers"]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True] * (len(before) - 2) + [False] * 2


# Must be the last test: it stops the container that the others need.
def test_it_stops_on_sigterm(container_id: str) -> None:
    run_engine("stop", "--time", str(HANG_SECONDS // 2), container_id)
    assert run_engine("inspect", "--format", "{{.State.ExitCode}}", container_id).strip() != "137"  # 137: SIGKILL had to end it
