"""The end of a worker: readiness fails first, then running requests end while others are refused, and then uvicorn stops."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

LAST_RESPONSE_SECONDS = 5
"""The time to send the last response, or a stream's last event, after a deadline or a cancellation."""
CHECK_SECONDS = 0.05
"""How often a worker that is about to exit looks whether its requests have ended."""


class Drain:
    """Whether the worker is draining, and its open requests."""

    def __init__(self) -> None:
        self.draining = False
        """Whether readiness fails."""
        self.refusing = False
        """Whether new requests are refused, because the worker is about to exit."""
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
        """The number of open requests, without those that were refused and without probes."""
        return len(self._requests)

    async def wait_for_requests(self) -> None:
        """Wait until the open requests have been answered: uvicorn does not wait for those that it has cancelled."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=LAST_RESPONSE_SECONDS + 1)

    @contextmanager
    def on_sigterm(self, seconds: float) -> Iterator[None]:
        """At SIGTERM, let readiness fail, accept requests for another `seconds`, refuse them until the running ones have ended, and then
        stop uvicorn.

        Kubernetes sends SIGTERM and takes the pod out of its endpoints at the same time, so requests still arrive for a few seconds.
        uvicorn would close its socket at once, but BentoML's main process has it open too: connections would wait there, unanswered,
        until the running requests have ended. SIGINT (Ctrl+C) goes straight to uvicorn.
        """
        stop = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or not callable(stop):
            yield
            return
        loop = asyncio.get_running_loop()
        server = getattr(stop, "__self__", None)  # the signal's handler is a method of uvicorn's server

        async def drain_and_stop() -> None:
            await asyncio.sleep(seconds)
            self.refusing = True
            config = server.config if isinstance(server, uvicorn.Server) else None
            grace = config.timeout_graceful_shutdown if config else None
            try:
                async with asyncio.timeout(grace):
                    while self.open_requests:
                        await asyncio.sleep(CHECK_SECONDS)
            except TimeoutError:
                assert config
                config.timeout_graceful_shutdown = 0  # which has passed already
            stop(signal.SIGTERM, None)

        def drain(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            if self.draining:
                return  # a process manager may signal both the worker and its process group
            self.draining = True
            loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(drain_and_stop())))

        tasks: list[asyncio.Task[None]] = []  # the loop itself holds no reference to a task
        signal.signal(signal.SIGTERM, drain)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, stop)


DRAIN = Drain()
"""The state of this worker."""
