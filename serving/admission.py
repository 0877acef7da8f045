"""Admission control: each model generates a bounded number of texts at once, and a bounded number waits for room; more are rejected."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from serving.problems import Problem

RATE_SECONDS = 30.0
"""Time constant of the moving average of the rate at which texts finish."""
MAX_RETRY_SECONDS = 60


class Observer(Protocol):
    """Learns what an `Admission` does."""

    def show_admission(self, running: int, waiting: int) -> None:
        """The numbers of running and waiting texts have changed."""
        ...

    def count_rejection(self, reason: str) -> None:
        """A request has been rejected."""
        ...


class Admission:
    """The texts of one model: up to `limit` are generated at once, and up to `max_waiting` wait for room in the order of their arrival."""

    def __init__(
        self,
        model: str,
        limit: int,
        max_waiting: int,
        *,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.limit, self.max_waiting = model, limit, max_waiting
        self.running = self.waiting = 0
        """Texts that are being generated, and texts that wait."""
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._observer = observer
        self._rate = _Rate(clock)

    @asynccontextmanager
    async def slot(self, texts: int) -> AsyncGenerator[None]:
        """Wait for room for `texts` more texts, and hold it until the end of the context.

        More texts than `limit` are admitted when no others are generated. Raises `Problem` (429, with a `Retry-After` from the measured
        rate) if too many texts are waiting already.
        """
        if self._queue or not self._fits(texts):
            await self._wait(texts)
        else:
            self._start(texts)
        try:
            yield
        finally:
            self._rate.finish(texts, self.running)
            self.running -= texts
            self._admit()

    def retry_seconds(self, texts: int) -> int:
        """Return the estimated time in seconds, from 1 to 60, until `texts` more texts could be admitted."""
        ahead = max(1, self.running + self.waiting + min(texts, self.limit) - self.limit)
        return min(max(math.ceil(ahead / self._rate.texts_per_second(self.running)), 1), MAX_RETRY_SECONDS)

    async def _wait(self, texts: int) -> None:
        if self.waiting + texts > self.max_waiting:
            if self._observer:
                self._observer.count_rejection("busy")
            seconds = self.retry_seconds(texts)
            detail = f"The model {self.model} is busy: {self.running} texts are running and {self.waiting} waiting. Retry in {seconds} s."
            raise Problem(429, detail, code="too_many_requests", headers={"retry-after": str(seconds)})
        entry = (texts, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self.waiting += texts
        self._show()
        try:
            await entry[1]
        except asyncio.CancelledError:
            if entry in self._queue:
                self._queue.remove(entry)
                self.waiting -= texts
            elif not entry[1].cancelled():  # admitted just before it was cancelled
                self._rate.advance(self.running)
                self.running -= texts
            self._admit()
            raise

    def _admit(self) -> None:
        """Admit those at the head of the queue for whom there is room."""
        while self._queue and (self._queue[0][1].cancelled() or self._fits(self._queue[0][0])):
            texts, admitted = self._queue.popleft()
            self.waiting -= texts
            if not admitted.cancelled():
                self._start(texts)
                admitted.set_result(None)
        self._show()

    def _show(self) -> None:
        if self._observer:
            self._observer.show_admission(self.running, self.waiting)

    def _fits(self, texts: int) -> bool:
        return not self.running or self.running + texts <= self.limit

    def _start(self, texts: int) -> None:
        self._rate.advance(self.running)
        self.running += texts
        self._show()


class _Rate:
    """The rate at which texts finish while any are generated, as an exponential moving average."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._updated = clock()
        self._finished = self._busy_seconds = 0.0

    def advance(self, running: int) -> None:
        """Account for the time since the last call, during which `running` texts were generated."""
        now = self._clock()
        elapsed, self._updated = now - self._updated, now
        if running:
            decay = math.exp(-elapsed / RATE_SECONDS)
            self._finished *= decay
            self._busy_seconds = self._busy_seconds * decay + elapsed

    def finish(self, texts: int, running: int) -> None:
        """Count `texts` texts that have finished, of `running`."""
        self.advance(running)
        self._finished += texts

    def texts_per_second(self, running: int) -> float:
        """Return the rate as if one more text finished now, which bounds it from above while none has finished."""
        self.advance(running)
        return (self._finished + 1) / max(self._busy_seconds, 1e-3)
