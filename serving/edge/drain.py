"""The end of a worker: readiness fails first, then uvicorn stops accepting, and the last responses are sent."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LAST_RESPONSE_SECONDS = 5
"""The time to send the last responses, once uvicorn has cancelled their requests at the end of the grace period."""


class Drain:
    """Whether the worker is draining, and its open requests."""

    def __init__(self) -> None:
        self.draining = False
        self.refusing = False
        """Whether requests are refused because the worker is about to exit."""
        self._requests: set[asyncio.Task[None]] = set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count the current task as an open request."""
        task = asyncio.current_task()
        assert task
        self._requests.add(task)
        try:
            yield
        finally:
            self._requests.discard(task)

    @property
    def open_requests(self) -> int:
        """The number of open requests."""
        return len(self._requests)

    async def wait_for_requests(self) -> None:
        """Wait until the open requests have been answered: uvicorn does not wait for those that it has cancelled."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=LAST_RESPONSE_SECONDS)

    @contextmanager
    def on_sigterm(self, seconds: float) -> Iterator[None]:
        """At SIGTERM, set `draining` and pass the signal on to uvicorn after `seconds`; until then the worker accepts requests.

        Kubernetes sends SIGTERM and takes the pod out of its endpoints at the same time, so requests still arrive for a few seconds.
        SIGINT (Ctrl+C) goes straight to uvicorn.
        """
        stop = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or not callable(stop):
            yield
            return
        loop = asyncio.get_running_loop()

        def drain(number: int, frame: FrameType | None) -> None:
            if self.draining:
                return  # a process manager may signal both the worker and its process group
            self.draining = True
            if seconds:
                loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, None)
            else:
                stop(number, frame)

        signal.signal(signal.SIGTERM, drain)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, stop)


DRAIN = Drain()
"""The state of this worker."""
