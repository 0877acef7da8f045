"""Send the load: requests of the mix, one after the other from each client or at random times, and check every answer."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field

import aiohttp

from tests.load.answers import WrongAnswer, check, read_answer
from tests.load.mix import LoadRequest

CLIENTS = 64
OVERLOAD = 2.0
"""Requests are offered at this multiple of the measured capacity."""
LOST = 0
"""The status of a request without an answer."""
CUT_OFF_SECONDS = 30
"""A request is lost if there is no answer this long after its deadline."""


@dataclass(frozen=True)
class Outcome:
    """What became of a request. Times are in seconds of `time.monotonic`."""

    request: LoadRequest
    started: float
    seconds: float
    status: int
    error: str | None = None
    """Why the answer is wrong or missing."""


@dataclass
class Load:
    """A server under load, the answers of lone runs, and the outcomes."""

    session: aiohttp.ClientSession
    url: str
    exact: bool
    """Whether the LLM's texts must be those of lone runs too."""
    lone: dict[str, object] = field(default_factory=dict)
    """The contents of lone answers by request."""
    outcomes: list[Outcome] = field(default_factory=list)
    turned_away: int = 0
    """Requests of the open loop that found all clients busy."""

    async def run_alone(self, requests: Iterable[LoadRequest]) -> None:
        """Send each request alone, with the default timeout, and keep its answer."""
        for request in requests:
            response, body = await self._receive(request, {})
            answer = read_answer(request, response.status, body)
            if answer.status != 200:
                raise WrongAnswer(f"{request.kind} alone: {answer.status} {body[:300]!r}")
            self.lone[repr(request)] = answer.content

    async def send(self, request: LoadRequest) -> None:
        """Send a request and check its answer."""
        started = time.monotonic()
        headers = {"X-Request-Timeout": str(request.timeout)} if request.timeout else {}
        error: str | None = None
        status = LOST
        try:
            async with asyncio.timeout(request.limit + CUT_OFF_SECONDS):
                response, body = await self._receive(request, headers)
            seconds = time.monotonic() - started
            status = response.status
            answer = read_answer(request, status, body)
            status = answer.status
            if status == 200:
                check(request, answer.content, self.lone[repr(request)], exact=self.exact)
            elif status == 429 and int(response.headers["Retry-After"]) < 1:
                raise WrongAnswer(f"429 with Retry-After: {response.headers['Retry-After']}")
            elif status not in (429, 504):
                error = f"{status}: {body[-300:].decode(errors='replace')}"
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError, WrongAnswer) as wrong:
            seconds, error = time.monotonic() - started, repr(wrong)
        self.outcomes.append(Outcome(request, started, seconds, status, error))

    async def _receive(self, request: LoadRequest, headers: dict[str, str]) -> tuple[aiohttp.ClientResponse, bytes]:
        method = "GET" if request.body is None else "POST"
        async with self.session.request(method, self.url + request.path, json=request.body, headers=headers) as response:
            return response, await response.read()

    async def closed_loop(self, requests: Iterator[LoadRequest], seconds: float) -> float:
        """Let each client send its next request as soon as it has an answer. Returns the answers (200) per second."""
        before, started = len(self.outcomes), time.monotonic()

        async def client() -> None:
            while time.monotonic() < started + seconds:
                await self.send(next(requests))

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        done = [outcome for outcome in self.outcomes[before:] if outcome.started + outcome.seconds <= started + seconds]
        return sum(outcome.status == 200 for outcome in done) / seconds

    async def open_loop(self, requests: Iterator[LoadRequest], rate: float, seconds: float) -> None:
        """Send `rate` requests per second at random times, whether or not earlier ones have been answered.

        A request for which no client is free is turned away. Returns when every request that was sent has been answered.
        """
        random_numbers, running = random.Random(0), set[asyncio.Task[None]]()
        next_arrival = started = time.monotonic()
        while next_arrival < started + seconds:
            await asyncio.sleep(max(0, next_arrival - time.monotonic()))
            next_arrival += random_numbers.expovariate(rate)
            request = next(requests)
            if len(running) < CLIENTS:
                task = asyncio.create_task(self.send(request))
                running.add(task)
                task.add_done_callback(running.discard)
            else:
                self.turned_away += 1
        await asyncio.gather(*running)


async def with_load(url: str, run: Callable[[Load], Awaitable[None]], *, exact: bool) -> Load:
    """Return the load on the server at `url` after `run`."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        load = Load(session, url, exact)
        await run(load)
        return load
