"""64 clients for five minutes, over all routes and models, at twice the capacity: `make test-load`.

LOAD_SECONDS changes the duration. The latencies are those of this machine, which runs the clients too.
"""

import asyncio
import os
from pathlib import Path

import pytest
import uvloop

from tests.conftest import Server, Trained, serve
from tests.load.client import OVERLOAD, Load, with_load
from tests.load.memory import sampling
from tests.load.mix import MANY_TEXTS, all_requests, cache_fillers, mixed
from tests.load.probes import probing, read_probes
from tests.load.report import Goal, Measurement, write

pytestmark = pytest.mark.load

SECONDS = float(os.environ.get("LOAD_SECONDS", "300"))
CALIBRATION_SECONDS = 20.0
TEXTS_SECONDS = 30.0
REPRODUCIBLE_SECONDS = SECONDS / 5
GOALS = 12


@pytest.fixture(scope="module")
def goals(load_models: Trained, reports: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Goal]:
    """Run the load; return the goals."""
    directory = tmp_path_factory.mktemp("load")
    with serve(load_models, directory / "reproducible", TRIGEN_REPRODUCIBLE="true") as server:
        reproducible = uvloop.run(with_load(server.url, _reproducible, exact=True))
    with serve(load_models, directory / "log") as server:
        measurement = uvloop.run(_measure(server, reproducible, directory))
    write(measurement, reports)
    return measurement.goals()


async def _reproducible(load: Load) -> None:
    await load.run_alone(all_requests())
    await load.closed_loop(mixed(2), REPRODUCIBLE_SECONDS)


async def _measure(server: Server, reproducible: Load, directory: Path) -> Measurement:
    under_load, beside_texts = directory / "probes", directory / "probes-beside-texts"
    capacity = 0.0

    async def calibrate(load: Load) -> None:
        nonlocal capacity
        await load.run_alone(cache_fillers())
        await load.run_alone(all_requests())
        capacity = await load.closed_loop(mixed(0), CALIBRATION_SECONDS)
        load.outcomes.clear()

    async def overload(load: Load) -> None:
        await calibrate(load)
        with probing(server.url, under_load):
            await load.open_loop(mixed(1), OVERLOAD * capacity, SECONDS)

    async def many_texts(load: Load) -> None:
        await load.run_alone([MANY_TEXTS])
        with probing(server.url, beside_texts):
            end = asyncio.get_running_loop().time() + TEXTS_SECONDS
            while asyncio.get_running_loop().time() < end:
                await load.send(MANY_TEXTS)

    with sampling(server.pid) as memory:
        load = await with_load(server.url, overload, exact=False)
    texts = await with_load(server.url, many_texts, exact=False)
    return Measurement(capacity, SECONDS, load, texts, reproducible, read_probes(under_load), read_probes(beside_texts), list(memory))


@pytest.mark.parametrize("number", range(GOALS))
def test_a_goal_is_reached(goals: list[Goal], number: int) -> None:
    assert len(goals) == GOALS
    assert goals[number].reached, str(goals[number])
