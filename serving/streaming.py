"""Responses as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

sse-starlette 3.7 would not make this module simpler. It pings even busy streams, ends streams at SIGTERM instead of at the end of uvicorn's
grace period, cannot send a last event once uvicorn has cancelled the stream, and leaves deadlines and early errors to the caller.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Generic, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from serving.deadline import deadline, time_limit
from serving.edge.drain import LAST_RESPONSE_SECONDS
from serving.problems import Problem
from serving.settings import settings

PING = b": still there\n\n"
"""An SSE comment, which clients skip."""

logger = logging.getLogger("bentoml.trigen")
T = TypeVar("T")


class ServiceStopping(Exception):
    """The service is stopping, and uvicorn has cancelled the stream."""


class EventStream(StreamingResponse):
    """A response that sends events as its source produces them, and pings while the source is silent.

    It stops the source when the client disconnects, at the request's deadline and when the service stops. A client that stops reading
    does not delay any of this.
    """

    def __init__(self, items: "_LimitedItems[Any]", events: AsyncGenerator[str]) -> None:
        # `x-accel-buffering` tells nginx not to buffer the events.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__((f"data: {event}\n\n" async for event in events), media_type="text/event-stream", headers=headers)
        self._items = items

    @classmethod
    async def open(cls, items: AsyncGenerator[T], encode: Callable[[AsyncIterator[T]], AsyncGenerator[str]]) -> "EventStream":
        """Return a stream of `items`, which `encode` turns into the `data` of each event.

        An error before the first item is raised here, so that it can become a response with its own status. The wait for that item is
        limited to the ping interval. Later errors are raised inside `encode`, which can report them in a last event: those of the source,
        `TimeoutError` at the request's deadline, and `ServiceStopping`.
        """
        limited_items = _LimitedItems(items)
        await limited_items.wait_for_first()
        return cls(limited_items, encode(limited_items))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. When uvicorn cancels this call because the service stops, end the stream with a last event."""
        # A separate task, because the cancellation may arrive while an event is being sent, and must not cut that event off.
        stream = asyncio.create_task(self._send_all(scope, receive, send))
        try:
            await asyncio.shield(stream)
        except asyncio.CancelledError:
            self._items.stop()
            await asyncio.wait([stream], timeout=LAST_RESPONSE_SECONDS)

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = _PingedConnection(send)
        pings = asyncio.create_task(connection.ping())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._items.deadline + LAST_RESPONSE_SECONDS):
                    await super().__call__(scope, receive, connection.send)
        finally:
            pings.cancel()
            await self._items.aclose()


def stream_problem(error: Exception) -> Problem:
    """Return the problem that a stream's last event reports for `error`. Log unexpected errors."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, TimeoutError):
        return Problem.timeout(time_limit())
    logger.error("a stream failed", exc_info=error)
    return Problem.internal()


class _PingedConnection:
    """The sending side of a response, which sends a ping whenever the response has been silent for the ping interval."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._last_sent = 0.0
        self._is_open = False

    async def send(self, message: Message) -> None:
        self._last_sent = asyncio.get_running_loop().time()
        self._is_open = message["type"] == "http.response.start" or message.get("more_body", False)
        await self._send(message)

    async def ping(self) -> None:
        """Send pings until cancelled."""
        loop, interval = asyncio.get_running_loop(), settings().ping_seconds
        while True:
            await asyncio.sleep(max(self._last_sent + interval - loop.time(), 0.01))
            if self._is_open and loop.time() >= self._last_sent + interval:
                await self.send({"type": "http.response.body", "body": PING, "more_body": True})


class _LimitedItems(Generic[T]):
    """The items of a source until the request's deadline or `stop`. The first one is requested at once."""

    def __init__(self, source: AsyncGenerator[T]) -> None:
        self._source = source
        self._first: asyncio.Future[T] | None = asyncio.ensure_future(anext(source))
        self.deadline = deadline()
        self._timeout: asyncio.Timeout | None = None
        self._stopped = False

    async def wait_for_first(self) -> None:
        """Wait for the first item, up to the ping interval. Raises the source's error."""
        assert self._first
        try:
            await asyncio.wait([self._first], timeout=settings().ping_seconds)
            if self._first.done():
                self._first.result()
        except BaseException:
            await self.aclose()
            raise

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if self._stopped:
            raise ServiceStopping
        try:
            async with asyncio.timeout_at(self.deadline) as self._timeout:
                if self._first:
                    first, self._first = self._first, None
                    return await first
                return await anext(self._source)
        except TimeoutError:
            if self._stopped:
                raise ServiceStopping from None
            raise
        finally:
            self._timeout = None

    def stop(self) -> None:
        """Raise `ServiceStopping` from the pending or the next `__anext__`."""
        self._stopped = True
        if self._timeout:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def aclose(self) -> None:
        """Close the source."""
        if self._first:
            self._first.cancel()
            await asyncio.gather(self._first, return_exceptions=True)
        await self._source.aclose()
