"""What the image installs: a complete lock with hashes, a licence for each package, and no known vulnerability."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service import IMAGE, UV
from tests.conftest import HANG_SECONDS, PROJECT

LOCK = PROJECT / "serving/requirements.lock"
TARGET = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux", "platform_system": "Linux", "extra": ""}
MACHINES = ("x86_64", "aarch64")
UV_COMMAND = (sys.executable, "-m", "uv")
ARGUED: dict[str, str] = {}
"""Findings of pip-audit that do not concern this service: the id of each, and why, with a link."""


def pins(path: Path) -> dict[str, str]:
    """Return the version of each package that a requirements file pins."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def dependencies(name: str) -> Iterator[str]:
    """Yield what an installed package requires on Linux."""
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate(TARGET | {"platform_machine": machine}) for machine in MACHINES):
            yield canonicalize_name(requirement.name)


def test_the_lock_has_the_versions_of_the_requirements_and_constraints() -> None:
    locked = pins(LOCK)
    requirements = pins(PROJECT / "serving/requirements.txt")
    assert requirements
    assert {name: locked.get(name) for name in requirements} == requirements, "run `make lock`"
    constraints = pins(PROJECT / "constraints.txt")
    assert {name: constraints.get(name) for name in locked} == locked, "run `make lock`, or add the missing packages to constraints.txt"


def test_the_lock_has_every_dependency_and_nothing_else() -> None:
    reached: set[str] = set()
    waiting = list(pins(PROJECT / "serving/requirements.txt"))
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += dependencies(name)
    assert set(pins(LOCK)) == reached, "run `make lock`"


def test_every_locked_package_has_hashes_and_no_host() -> None:
    text = LOCK.read_text()
    entries = re.split(r"\n(?=[a-z])", text.strip())
    assert len(entries) == len(pins(LOCK))
    assert all(re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry) for entry in entries)


def build_environment() -> dict[str, str]:
    """Return the variables that the image sets for uv."""
    variables = yaml.safe_load((PROJECT / "bentofile.yaml").read_text())["envs"]
    return {entry["name"]: entry["value"] for entry in variables if entry["name"].startswith("UV_")}


def test_the_image_installs_nothing_without_a_hash(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    environment = os.environ | build_environment() | {"UV_CONSTRAINT": str(requirements), "UV_CACHE_DIR": str(tmp_path / "cache")}

    def install(content: str) -> str:
        requirements.write_text(content)
        command = [*UV_COMMAND, "pip", "install", "--offline", "--dry-run", "--python", sys.executable, "--target", str(tmp_path / "new")]
        done = subprocess.run([*command, "-r", str(requirements)], env=environment, capture_output=True, text=True, timeout=HANG_SECONDS)
        assert done.returncode != 0  # without a package index it cannot succeed
        return done.stderr

    bentoml = f"bentoml=={pins(LOCK)['bentoml']}\n"  # BentoML adds this line
    assert "network was disabled" in install(LOCK.read_text() + bentoml)  # it accepts the file, and fails to fetch
    assert "must have a hash" in install(re.sub(r" \\\n    --hash=\S+", "", LOCK.read_text()) + bentoml)
    assert "must have a hash" in install(bentoml)


def test_the_image_gets_the_pinned_uv() -> None:
    name, *hashes = UV.split()
    assert name == f"uv=={pins(PROJECT / 'requirements.txt')['uv']}"
    assert len(hashes) == len(MACHINES)
    assert any(UV in command for command in IMAGE.commands)
    settings = yaml.safe_load((PROJECT / "bentofile.yaml").read_text())["python"]
    assert settings == {"requirements_txt": "serving/requirements.lock", "lock_packages": False}


def test_every_licence_is_listed() -> None:
    rows = re.findall(r"^\| ([A-Za-z]\S*) +\| (\d\S*) +\| (\S.*?) +\|$", (PROJECT / "docs/licences.md").read_text(), re.MULTILINE)
    assert {canonicalize_name(name): version for name, version, _ in rows} == pins(LOCK), "run `make lock`"
    assert not [name for name, _, licence in rows if licence == "UNKNOWN"]
    copyleft = [name for name, _, licence in rows if re.search("GPL|General Public", licence)]
    assert not copyleft, f"{copyleft} may not be distributed with the image under its own licence: see docs/licences.md"


@pytest.mark.slow
def test_the_lock_is_what_uv_resolves(tmp_path: Path) -> None:
    recipe = re.search(r"uv (pip compile (?:.*\\\n)*.*) --output-file \S+$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    arguments = recipe[1].replace("\\\n", "").split()
    for platform in ("x86_64-manylinux_2_28", "aarch64-manylinux_2_36"):
        output = tmp_path / platform
        words = (platform if word == "x86_64-manylinux_2_28" else word for word in arguments)
        command = [*UV_COMMAND, *words, "--output-file", str(output)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=HANG_SECONDS)
        if done.returncode and re.search("connect|dns error|Could not|Failed to fetch", done.stderr):
            pytest.skip("the package index cannot be reached")
        assert done.returncode == 0, done.stderr
        assert output.read_text() == LOCK.read_text(), f"run `make lock` ({platform})"


@pytest.mark.slow
def test_no_locked_package_is_known_as_vulnerable() -> None:
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--disable-pip", "--progress-spinner=off", "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    if not done.stdout.strip():
        pytest.skip(f"the vulnerability service cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    audited = json.loads(done.stdout)["dependencies"]
    unknown = [package["name"] for package in audited if "skip_reason" in package]
    if len(unknown) == len(audited):
        pytest.skip(f"the vulnerability service knows none of the packages: {audited[0]['skip_reason']}")
    assert not unknown
    found = {entry["id"]: package["name"] for package in audited for entry in package["vulns"]}
    assert found.keys() <= ARGUED.keys(), f"upgrade the package and run `make lock`, or argue the finding in ARGUED: {found}"
    assert ARGUED.keys() <= found.keys(), "these findings are gone: remove them from ARGUED"
