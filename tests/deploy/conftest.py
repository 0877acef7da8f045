"""The programs of `make test-deploy`, and a real Prometheus."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.serving.process import free_port, served
from tests.conftest import HANG_SECONDS, PROJECT

DEPLOY = PROJECT / "deploy"
RULES = DEPLOY / "prometheus/rules.yml"
TOOLS = PROJECT / ".venv-deploy/bin"
FOR = "2s"
"""The tests' duration of an alert's condition before it fires, instead of the minutes of the rules."""


def find_program(name: str, source: str) -> str:
    """Return the path of a program, or skip the test; `source` says where to get it."""
    found = shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
    if not found:
        pytest.skip(f"{name} is missing: {source}")
    return found


def run_program(*command: str, standard_input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=DEPLOY, input=standard_input, capture_output=True, text=True, timeout=HANG_SECONDS)


def rules() -> list[dict[str, Any]]:
    """The recording and alerting rules, in their order."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[float]:
        """Return the values of an expression now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=HANG_SECONDS).json()
        assert answer["status"] == "success", answer
        return [float(sample["value"][1]) for sample in answer["data"]["result"]]

    def firing(self) -> dict[str, dict[str, str]]:
        """Return the labels of the alerts that fire, by name."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts", timeout=HANG_SECONDS).json()["data"]["alerts"]
        return {alert["labels"]["alertname"]: alert["labels"] for alert in alerts if alert["state"] == "firing"}


@contextmanager
def prometheus(target: str, directory: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the files in `deploy/prometheus`, but it scrapes `target`, does all each second, and `FOR` replaces minutes."""
    program = find_program("prometheus", "install Debian's package prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    quick = yaml.safe_load(RULES.read_text())
    for rule in (rule for group in quick["groups"] for rule in group["rules"] if "for" in rule):
        rule["for"] = FOR
    for name, content in (("prometheus.yml", config), ("rules.yml", quick)):
        (directory / name).write_text(yaml.safe_dump(content))
    port = free_port()
    files = [f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"]
    command = [program, *files, f"--web.listen-address=127.0.0.1:{port}"]
    with served(command, "/-/ready", directory / "log", os.environ, port) as (url, _):
        yield Prometheus(url)
