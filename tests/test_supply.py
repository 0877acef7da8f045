"""What the image installs: a complete lock with hashes, a licence for each package, and no known vulnerability."""

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import HANG_SECONDS, PROJECT

LOCK = PROJECT / "serving/requirements.lock"
GPU_LOCK = PROJECT / "serving/requirements-gpu.lock"
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


def test_the_gpu_lock_adds_to_the_lock() -> None:
    requirements, locked = pins(PROJECT / "serving/requirements-gpu.txt"), pins(GPU_LOCK)
    assert requirements
    assert {name: locked.get(name) for name in requirements} == requirements, "run `make lock`"
    assert pins(LOCK).items() <= locked.items(), "run `make lock`"
    constraints = pins(PROJECT / "constraints.txt")
    assert {name: constraints.get(name, version) for name, version in locked.items()} == locked, "run `make lock`"


def test_the_image_installs_nothing_without_its_hash(tmp_path: Path) -> None:
    options = re.search(r"pip .* (install .*) -r /tmp/requirements.txt", (PROJECT / "image/Dockerfile.j2").read_text())
    assert options
    command = [sys.executable, "-m", "pip", *options[1].split(), "--no-index", "--find-links", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | {"PIP_CONFIG_FILE": os.devnull}
    wheel, requirements = tmp_path / "thing-1.0-py3-none-any.whl", tmp_path / "requirements.txt"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("thing-1.0.dist-info/RECORD", "")

    def install(lines: str) -> str:
        requirements.write_text(lines)
        words = [*command, "--target", str(tmp_path / "target"), "-r", str(requirements)]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS).stderr

    assert "Hashes are required" in install("thing==1.0\n")
    assert "DO NOT MATCH THE HASHES" in install(f"thing==1.0 --hash=sha256:{'0' * 64}\n")
    assert not (tmp_path / "target").exists()
    install(f"thing==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\nthing==1.0\n")  # as BentoML adds itself again
    assert (tmp_path / "target").exists()


def test_every_licence_is_listed() -> None:
    rows = re.findall(r"^\| ([A-Za-z]\S*) +\| (\d\S*) +\| (\S.*?) +\|$", (PROJECT / "docs/licences.md").read_text(), re.MULTILINE)
    assert {canonicalize_name(name): version for name, version, _ in rows} == pins(LOCK), "run `make lock`"
    assert not [name for name, _, licence in rows if licence == "UNKNOWN"]
    copyleft = [name for name, _, licence in rows if re.search("GPL|General Public", licence)]
    assert not copyleft, f"{copyleft} may not be distributed with the image under its own licence: see docs/licences.md"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lock", "platform"), [(LOCK, "x86_64-manylinux_2_28"), (LOCK, "aarch64-manylinux_2_36"), (GPU_LOCK, "x86_64-manylinux_2_28")]
)
def test_the_lock_is_what_uv_resolves(lock: Path, platform: str, tmp_path: Path) -> None:
    recipe = re.search(r"uv (pip compile (?:.*\\\n)*.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    arguments = recipe[1].replace("\\\n", "").split()
    output = tmp_path / "lock"
    words = (platform if word == "x86_64-manylinux_2_28" else word for word in arguments)
    command = [*UV_COMMAND, *words, str(lock.with_suffix(".txt")), "--output-file", str(output)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=HANG_SECONDS)
    if done.returncode and re.search("connect|dns error|Could not|Failed to fetch", done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    assert output.read_text() == lock.read_text(), "run `make lock`"


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
