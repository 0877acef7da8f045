"""A load at a fixed pace over all models and routes, and what became of each request."""

import asyncio
import itertools
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import aiohttp

from tests.conftest import HANG_SECONDS, wait_until
from tests.load.answers import WrongAnswer, check, read_answer
from tests.load.mix import KINDS, VARIANTS, Kind, LoadRequest, native

CLIENTS = 64
SECONDS = 60
REQUESTS = 2_000
CALLS = 100
"""Enough to have a call of each model among them."""
TAG = re.compile(rb'"(trigen-[a-z]+:[a-z0-9]+)"')
LONG_STREAMS = (
    Kind("LSTM, long stream", 4, "/generate_with_rnn", native(430, 10, stream=True)),
    Kind("LLM, long stream", 2, "/generate_with_llm", native(200, 10, stream=True)),
)
"""Some of these are always in progress, so that a replica that dies cuts one off."""
MIX = [kind for kind in KINDS if kind.body(0) and not kind.timeout] + [*LONG_STREAMS]
"""Every kind of request to a model, except those with a short timeout, which may end with 504."""
Outcome = Literal["answered", "broken off", "failed"]


@dataclass(frozen=True)
class Call:
    """One request."""

    request: LoadRequest
    phase: str
    """The phase in which it was sent."""
    started: float
    ended: float
    outcome: Outcome
    """answered: with the text of a lone run. broken off: a stream that had begun ended without its last event. failed: anything else."""
    tags: frozenset[str] = frozenset()
    """The model that answered."""
    detail: str = ""


class BrokenOff(Exception):
    """A stream that had begun ended without its last event."""


@dataclass
class Traffic:
    """The calls so far."""

    session: aiohttp.ClientSession
    url: str
    phase: str = ""
    calls: list[Call] = field(default_factory=list)
    _lone: dict[str, object] = field(default_factory=dict)

    async def run_alone(self, requests: Iterable[LoadRequest]) -> None:
        """Send each request alone, and keep its answer."""
        for request in requests:
            status, body = await self._receive(request)
            answer = read_answer(request, status, body)
            assert answer.status == 200, body
            self._lone[repr(request)] = answer.content

    async def send_all(self, requests: Iterator[LoadRequest], done: asyncio.Event) -> None:
        """Send REQUESTS requests in SECONDS seconds, and go on at that pace until `done`; return when all have been answered.

        At most CLIENTS are in progress: a slow machine takes longer, and is not offered more.
        """
        begin, free, running = time.monotonic(), asyncio.Semaphore(CLIENTS), set[asyncio.Task[None]]()
        for number in itertools.count():
            if number >= REQUESTS and done.is_set():
                break
            await asyncio.sleep(max(0, begin + number * SECONDS / REQUESTS - time.monotonic()))
            await free.acquire()
            task = asyncio.create_task(self._send(next(requests)))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda _: free.release())
        await asyncio.gather(*running)

    def wait_for_calls(self) -> None:
        """Wait until CALLS calls of the current phase have ended."""
        wait_until(lambda: sum(call.phase == self.phase for call in self.calls) >= CALLS, f"{CALLS} calls in the phase {self.phase}")

    async def _send(self, request: LoadRequest) -> None:
        phase, started = self.phase, time.monotonic()
        tags, detail = frozenset[str](), ""
        outcome: Outcome = "failed"
        try:
            async with asyncio.timeout(HANG_SECONDS):
                status, body = await self._receive(request)
            answer = read_answer(request, status, body)
            if answer.status != 200:
                raise WrongAnswer(f"{answer.status}: {body[-300:].decode(errors='replace')}")
            check(request, answer.content, self._lone[repr(request)], exact=True)
            tags, outcome = frozenset(tag.decode() for tag in TAG.findall(body)), "answered"
        except BrokenOff as broken:
            outcome, detail = "broken off", str(broken)
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError, WrongAnswer) as error:
            detail = repr(error)
        self.calls.append(Call(request, phase, started, time.monotonic(), outcome, tags, detail))

    async def _receive(self, request: LoadRequest) -> tuple[int, bytes]:
        async with self.session.post(self.url + request.path, json=request.body) as response:
            try:
                return response.status, await response.read()
            except aiohttp.ClientError as error:
                if request.stream and response.status == 200:
                    raise BrokenOff(repr(error)) from error
                raise


def all_requests() -> list[LoadRequest]:
    """Return every request of the load once."""
    return [kind.request(number) for kind in MIX for number in range(VARIANTS)]
