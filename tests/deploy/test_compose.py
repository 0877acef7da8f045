"""`deploy/compose.yaml`, as Docker Compose reads it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import DEPLOY, find_program, run_program

pytestmark = pytest.mark.slow

REPLICAS = ("trigen-1", "trigen-2")


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """The file with its variables and anchors replaced."""
    done = run_program(
        find_program("docker-compose", "`make test-deploy` installs it"), "--file", "compose.yaml", "config", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_file_that_a_container_gets_is_there(composed: dict[str, Any]) -> None:
    binds = [each["source"] for service in composed["services"].values() for each in service.get("volumes", []) if each["type"] == "bind"]
    assert binds
    assert [path for path in binds if not Path(path).exists()] == []


def test_no_container_has_privileges(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        given = (service["read_only"], service["cap_drop"], service["security_opt"])
        assert given == (True, ["ALL"], ["no-new-privileges:true"]), name


def test_only_the_load_balancer_is_published_beyond_this_machine(composed: dict[str, Any]) -> None:
    open_ports = {name for name, service in composed["services"].items() for port in service.get("ports", []) if "host_ip" not in port}
    assert open_ports == {"haproxy"}
    for name in REPLICAS:
        assert "ports" not in composed["services"][name]
        assert all(composed["networks"][network]["internal"] for network in composed["services"][name]["networks"])


def test_a_replica_has_time_to_end_its_requests(composed: dict[str, Any]) -> None:
    for name in REPLICAS:
        service = composed["services"][name]
        minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(\d+)s", service["stop_grace_period"]).groups(default="0")  # type: ignore[union-attr]
        given = service["environment"]
        needed = float(given["TRIGEN_DRAIN_SECONDS"]) + float(given["TRIGEN_TIMEOUT_SECONDS"]) + 5
        assert 60 * int(minutes) + int(seconds) > needed


def test_prometheus_scrapes_the_replicas(composed: dict[str, Any]) -> None:
    (scraped,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    ports = {name: composed["services"][name]["environment"]["TRIGEN_METRICS_PORT"] for name in REPLICAS}
    assert scraped["static_configs"] == [{"targets": [f"{name}:{port}" for name, port in ports.items()]}]
    networks = [set(composed["services"][name]["networks"]) for name in (*REPLICAS, "prometheus")]
    assert set.intersection(*networks)
