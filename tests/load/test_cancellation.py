"""A thousand requests to all models that their clients cancel at random points leave nothing behind: `make test-load`."""

import asyncio
import random
import re
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from tests.conftest import HANG_SECONDS, Server, Trained, serve
from tests.load.memory import sample
from tests.load.mix import cache_fillers, completion, native

pytestmark = pytest.mark.load

CANCELLED = 1_000
CLIENTS = 32
WARM_UP = 2_000
"""Requests that are cancelled before the first measurement."""
ROUNDS, MEASURED = 5, 41
"""Rounds of a measurement, and requests to each model in a round. The fastest round counts: other programs only slow one down."""
MAX_SLOWDOWN, MAX_MEMORY_CHANGE = 0.10, 0.02
LONG = {
    "bigram": ("/generate_text", native(512, 0), 0.02),
    "bigram, streamed": ("/generate_text", native(512, 0, stream=True), 0.02),
    "LSTM": ("/generate_with_rnn", native(512, 0), 0.3),
    "LSTM, streamed": ("/generate_with_rnn", native(512, 0, stream=True), 0.3),
    "LLM": ("/generate_with_llm", native(512, 0), 2.0),
    "LLM, streamed": ("/generate_with_llm", native(512, 0, stream=True), 2.0),
    "LSTM, n=4": ("/v1/completions", completion("rnn", 512, 0, n=4), 0.5),
    "LLM, n=2, streamed": ("/v1/completions", completion("llm", 512, 0, n=2, stream=True), 2.0),
    "LLM, scored": ("/v1/completions", completion("llm", 64, 0, n=2, echo=True, logprobs=1), 2.0),
}
"""Requests that take long: their path, their body, and the longest time in seconds until they are cancelled."""
SHORT = {
    "bigram": ("/generate_text", native(20, 0)),
    "LSTM": ("/generate_with_rnn", native(64, 0)),
    "LLM": ("/generate_with_llm", native(16, 0)),
}
"""Requests whose duration is measured, when no others are under way."""


@dataclass(frozen=True)
class State:
    """The service when it is idle: the median seconds of a request to each model in its fastest round, and the resident memory in bytes."""

    seconds: dict[str, float]
    memory: int


async def _measure(session: aiohttp.ClientSession, server: Server) -> State:
    medians: dict[str, list[float]] = {name: [] for name in SHORT}
    for _ in range(ROUNDS):
        times: dict[str, list[float]] = {name: [] for name in SHORT}
        for number in range(MEASURED):
            for name, (path, body) in SHORT.items():
                started = time.perf_counter()
                async with session.post(server.url + path, json=body(number)) as response:
                    response.raise_for_status()
                    await response.read()
                times[name].append(time.perf_counter() - started)
        for name, values in times.items():
            medians[name].append(statistics.median(values))
    return State({name: min(values) for name, values in medians.items()}, sample(server.pid).total)


async def _cancel(session: aiohttp.ClientSession, server: Server, count: int, seed: int) -> Counter[str]:
    """Cancel `count` requests at random points, many of them at once. Returns their numbers by kind; those that ended do not count."""
    random_numbers = random.Random(seed)
    cancelled: Counter[str] = Counter()

    async def client() -> None:
        while cancelled.total() < count:
            kind = random_numbers.choice(list(LONG))
            path, body, longest = LONG[kind]
            try:
                async with asyncio.timeout(random_numbers.uniform(0, longest)):
                    async with session.post(server.url + path, json=body(random_numbers.randrange(20))) as response:
                        assert response.status == 200
                        await response.read()
            except TimeoutError:  # the client has closed the connection
                cancelled[kind] += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return cancelled


async def _texts_under_way(session: aiohttp.ClientSession, server: Server) -> dict[str, float]:
    """Return the metrics of running and waiting texts that are not 0."""
    async with session.get(f"{server.url}/metrics") as response:
        lines = re.findall(r"^(vllm:num_requests_(?:running|waiting)\S*) (\S+)$", await response.text(), re.MULTILINE)
    assert lines
    return {name: float(value) for name, value in lines if float(value)}


async def _wait_until_idle(session: aiohttp.ClientSession, server: Server) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while under_way := await _texts_under_way(session, server):
        assert time.monotonic() < deadline, f"texts are left: {under_way}"
        await asyncio.sleep(0.1)


async def _run(server: Server) -> dict[str, Any]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for request in cache_fillers():
            async with session.post(server.url + request.path, json=request.body) as response:
                response.raise_for_status()
                await response.read()
        await _cancel(session, server, WARM_UP, 0)
        await _wait_until_idle(session, server)
        before = await _measure(session, server)
        cancelled = await _cancel(session, server, CANCELLED, 1)
        await _wait_until_idle(session, server)
        after = await _measure(session, server)
    return {"before": before, "after": after, "cancelled": cancelled}


@pytest.fixture(scope="module")
def measured(load_models: Trained, reports: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Cancel the requests, and write `cancellation.md`."""
    with serve(load_models, tmp_path_factory.mktemp("cancellation") / "log") as server:
        result = uvloop.run(_run(server))
    before, after = result["before"], result["after"]
    lines = [f"Cancelled: {result['cancelled'].total():,} requests ({dict(result['cancelled'])})"]
    lines += [f"{name}: {1e3 * before.seconds[name]:.1f} ms before, {1e3 * after.seconds[name]:.1f} ms after" for name in SHORT]
    lines += [f"memory: {before.memory / 1e6:,.0f} MB before, {after.memory / 1e6:,.0f} MB after", ""]
    (reports / "cancellation.md").write_text("\n".join(lines))
    return result


def test_a_thousand_requests_to_all_models_are_cancelled_and_no_text_is_left(measured: dict[str, Any]) -> None:
    assert measured["cancelled"].total() >= CANCELLED
    assert set(measured["cancelled"]) == set(LONG)


@pytest.mark.parametrize("name", SHORT)
def test_the_next_request_is_as_fast_as_before(measured: dict[str, Any], name: str) -> None:
    assert measured["after"].seconds[name] <= (1 + MAX_SLOWDOWN) * measured["before"].seconds[name]


def test_the_memory_is_that_of_before(measured: dict[str, Any]) -> None:
    assert measured["after"].memory <= (1 + MAX_MEMORY_CHANGE) * measured["before"].memory
