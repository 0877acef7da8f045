"""Two replicas behind haproxy under load: one is killed, both are rolled, and new models are rolled out. `make test-replicas`."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import aiohttp
import pytest
import uvloop

from tests.conftest import NEVER, Trained, wait_until
from tests.load.mix import mixed
from tests.replicas.proxy import REPLICAS, Proxy, proxied
from tests.replicas.replica import Replica, Store
from tests.replicas.report import Phases, versions, write
from tests.replicas.traffic import MIX, REQUESTS, Call, Traffic, all_requests

pytestmark = pytest.mark.replicas

PATIENT = {"TRIGEN_TIMEOUT_SECONDS": NEVER, "TRIGEN_MAX_WAITING": "10000"}
"""Settings with which no request is refused because the machine is slow."""

BEFORE, KILLED, ROLLED = "both run", "one is killed and started again", "it is rolled"
ROLLED_OUT, AFTER = "new models are rolled out to both", "both run again"


@dataclass
class Cluster:
    """Two replicas behind haproxy."""

    store: Store
    replicas: dict[str, Replica]
    proxy: Proxy
    killed: tuple[float, float] = (0.0, 0.0)
    """When the processes of a replica began to be killed, and when all had exited (`time.monotonic`)."""

    def wait_until_up(self, name: str) -> None:
        wait_until(lambda: self.proxy.is_up(name), f"haproxy sends requests to {name}")

    def wait_until_down(self, name: str) -> None:
        wait_until(lambda: not self.proxy.is_up(name), f"haproxy sends no requests to {name}")

    def kill(self, name: str) -> None:
        """Kill a replica that is answering requests. Start it again when haproxy has noticed."""
        wait_until(lambda: self.proxy.requests_at(name) > 1, f"{name} has requests in progress")
        began = time.monotonic()
        self.replicas[name].kill()
        self.killed = began, time.monotonic()
        self.wait_until_down(name)
        self.replicas[name].start()
        self.wait_until_up(name)

    def roll(self, name: str) -> None:
        """Stop a replica and start it again."""
        self.replicas[name].stop()
        self.wait_until_down(name)
        self.replicas[name].start()
        self.wait_until_up(name)

    def roll_out(self) -> None:
        """Register new models, and roll each replica."""
        self.store.register_models()
        for name in self.replicas:
            self.roll(name)


@pytest.fixture(scope="module")
def cluster(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Both replicas run, and haproxy sends requests to both."""
    directory = tmp_path_factory.mktemp("replicas")
    store = Store(trained, directory)
    replicas = {name: Replica(store, directory / name, PATIENT) for name in REPLICAS}
    first, second = replicas.values()
    try:
        with proxied((first.port, second.port), directory / "haproxy", timeout=f"{NEVER}s") as proxy:
            running = Cluster(store, replicas, proxy)
            for name, replica in replicas.items():
                replica.start()
                running.wait_until_up(name)
            yield running
    finally:
        for replica in replicas.values():
            replica.close()


@dataclass(frozen=True)
class Run:
    """What happened under the load."""

    calls: list[Call]
    phases: Phases
    killed: tuple[float, float]

    def during(self, phase: str) -> list[Call]:
        """The calls that were sent in a phase."""
        return [call for call in self.calls if call.phase == phase]


@pytest.fixture(scope="module")
def run(cluster: Cluster) -> Run:
    """Run the load and, meanwhile, everything that may happen to a replica. Write the report."""
    return uvloop.run(_run(cluster))


async def _run(cluster: Cluster) -> Run:
    first, second = REPLICAS
    phases, done = Phases(), asyncio.Event()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)) as session:
        traffic = Traffic(session, cluster.proxy.url, BEFORE)
        steps: list[tuple[str, Callable[[], None]]] = [
            (BEFORE, traffic.wait_for_calls),
            (KILLED, lambda: cluster.kill(first)),
            (ROLLED, lambda: cluster.roll(first)),
            ("the other one is rolled", lambda: cluster.roll(second)),
            (ROLLED_OUT, cluster.roll_out),
            (AFTER, traffic.wait_for_calls),
            ("end", lambda: None),
        ]
        await traffic.run_alone(all_requests())
        load = asyncio.create_task(traffic.send_all(mixed(0, MIX), done))
        for phase, action in steps:
            phases.begin(phase, time.monotonic(), await asyncio.to_thread(cluster.proxy.repeated))
            traffic.phase = phase
            await asyncio.to_thread(action)
        done.set()
        await load
    write(phases, traffic.calls)
    return Run(traffic.calls, phases, cluster.killed)


def test_no_request_is_lost(run: Run) -> None:
    assert [call for call in run.calls if call.outcome == "failed"] == []
    assert len(run.calls) >= REQUESTS
    assert {call.request.kind for call in run.calls if call.outcome == "answered"} == {kind.name for kind in MIX}


def test_only_streams_of_the_killed_replica_are_broken_off(run: Run) -> None:
    began, ended = run.killed
    broken_off = [call for call in run.calls if call.outcome == "broken off"]
    assert [call for call in broken_off if call.ended < began or call.started > ended] == []


def test_requests_to_the_killed_replica_are_repeated(run: Run) -> None:
    assert run.phases.repeated[ROLLED] > run.phases.repeated[KILLED]


def test_new_models_replace_the_old_ones(run: Run) -> None:
    (old,), (new,) = versions(run.during(BEFORE)), versions(run.during(AFTER))
    assert old != new
    assert versions(run.during(ROLLED_OUT)) == {old, new}
