"""haproxy in front of two replicas, with the real `deploy/haproxy.cfg`."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.serving.process import free_port, served
from tests.client import get
from tests.conftest import PROJECT

CONFIGURATION = PROJECT / "deploy/haproxy.cfg"
REPLICAS = ("trigen-1", "trigen-2")


def haproxy() -> str:
    """Return the path of haproxy, or skip the test."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if not found:
        pytest.skip("haproxy is not installed: install Debian's package haproxy")
    return found


@dataclass(frozen=True)
class Proxy:
    """A running haproxy."""

    url: str
    metrics_url: str
    log: Path

    def repeated(self) -> int:
        """How many requests it has sent to another replica again."""
        return int(self._sum("haproxy_backend_redispatch_warnings_total", proxy="replicas"))

    def is_up(self, replica: str) -> bool:
        """Whether it sends requests to a replica."""
        return bool(self._sum("haproxy_server_status", proxy="replicas", server=replica, state="UP"))

    def requests_at(self, replica: str) -> int:
        """How many requests a replica is answering."""
        return int(self._sum("haproxy_server_current_sessions", proxy="replicas", server=replica))

    def _sum(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(get(self.metrics_url).text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        found = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
        assert found, f"haproxy has no metric {name} with {labels}"
        return sum(found)


@contextmanager
def proxied(ports: tuple[int, int], log: Path, timeout: str = "75s") -> Iterator[Proxy]:
    """Run haproxy in front of the replicas that listen on `ports` of 127.0.0.1, whether or not they are up."""
    port, metrics_port = free_port(), free_port()
    environment = {
        "TRIGEN_1": f"127.0.0.1:{ports[0]}",
        "TRIGEN_2": f"127.0.0.1:{ports[1]}",
        "PROXY_ADDRESS": f"127.0.0.1:{port}",
        "PROXY_METRICS_ADDRESS": f"127.0.0.1:{metrics_port}",
        "PROXY_TIMEOUT": timeout,
    }
    with served([haproxy(), "-f", str(CONFIGURATION)], "/metrics", log, os.environ | environment, metrics_port) as (url, _):
        yield Proxy(f"http://127.0.0.1:{port}", f"{url}/metrics", log)
