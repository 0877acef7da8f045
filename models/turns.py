"""Turns on the event loop for texts that are computed in it."""

import asyncio
import heapq
import itertools
import time

SLICE_SECONDS = 0.0005
"""How long a turn may last. A text may finish the word that it has begun."""


class Turns:
    """Shares the event loop fairly: in each iteration one text gets a turn, the one with the least work so far (least attained service).

    A short text therefore overtakes any number of long ones, and everything else in the loop never waits for more than one turn.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._taken = False
        """Whether a text has this iteration's turn."""

    async def take(self, work: int) -> "Turn":
        """Wait for a turn. `work` is the number of words that the text has so far."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._pass_on, loop)
        else:
            future = loop.create_future()
            heapq.heappush(self._waiting, (work, next(self._order), future))
            await future  # if it is cancelled, `_pass_on` skips it
        return Turn()

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the turn of the next iteration to the text with the least work."""
        while self._waiting:
            *_, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                loop.call_soon(self._pass_on, loop)
                return
        self._taken = False


class Turn:
    """A turn, which is over after `SLICE_SECONDS`."""

    def __init__(self) -> None:
        self._end = time.perf_counter() + SLICE_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether the text must let others go on."""
        return time.perf_counter() >= self._end
