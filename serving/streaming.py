"""A text as it comes: Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Generic, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from serving.problems import Problem
from serving.settings import settings

LAST_EVENT_SECONDS = 5
"""What a client may take to read that its time is over."""
PING = b": still there\n\n"
"""A comment, which clients skip."""

logger = logging.getLogger("bentoml.trigen")
_under_way: "set[asyncio.Task[None]]" = set()
T = TypeVar("T")


class EventStream(StreamingResponse):
    """Events as they come. The client that leaves ends the work, and so does the time that a request may take, be it that the client does
    not read. While there is nothing to tell, a comment says that somebody is still there.
    """

    def __init__(self, source: "_Source[Any]", events: AsyncGenerator[str]) -> None:
        # Proxies must not collect the events: nginx asks for the header of that name.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__((f"data: {event}\n\n" async for event in events), media_type="text/event-stream", headers=headers)
        self._source = source

    @classmethod
    async def begin(cls, items: AsyncGenerator[T], events: Callable[[AsyncIterator[T]], AsyncGenerator[str]]) -> "EventStream":
        """Answer with what `events` makes of `items`: the `data` of each event.

        What goes wrong before the first item is raised here, so that it can be answered with a status of its own, unless nothing comes for
        as long as a stream may be silent. What goes wrong later is raised in `events`, which has the last word; so are `TimeoutError`, when
        the request's time is over, and `ServiceStops`.
        """
        source = _Source(items)
        await source.wait()
        return cls(source, events(source))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        loop, spoken, more = asyncio.get_running_loop(), 0.0, False

        async def noting(message: Message) -> None:
            nonlocal spoken, more
            spoken, more = loop.time(), message.get("more_body", message["type"] == "http.response.start")
            await send(message)

        async def ping() -> None:
            silence = settings().ping_seconds
            while True:
                await asyncio.sleep(max(spoken + silence - loop.time(), 0.01))
                if more and loop.time() >= spoken + silence:
                    await noting({"type": "http.response.body", "body": PING, "more_body": True})

        async def answer() -> None:
            pinging = asyncio.ensure_future(ping())
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._source.deadline + LAST_EVENT_SECONDS):
                        await super(EventStream, self).__call__(scope, receive, noting)
            finally:
                pinging.cancel()
                await self._source.aclose()

        # A task of its own: a server that stops cancels this one, wherever it is, be it in the middle of sending.
        answering = asyncio.ensure_future(answer())
        _under_way.add(answering)
        answering.add_done_callback(_under_way.discard)
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:
            self._source.stop()
            await last_words()


async def last_words() -> None:
    """Wait until the streams that were cancelled have said so: a server that stops ends its process without asking them."""
    if _under_way:
        await asyncio.wait(_under_way, timeout=LAST_EVENT_SECONDS)


class ServiceStops(Exception):
    """The service stops while a stream is under way."""


class _Source(Generic[T]):
    """Items, of which the first may have been waited for already; none comes after the time that a request may take, nor after `stop`."""

    def __init__(self, items: AsyncGenerator[T]) -> None:
        self._items = items
        self._first: asyncio.Future[T] | None = asyncio.ensure_future(anext(items))
        self.deadline = asyncio.get_running_loop().time() + settings().timeout_seconds
        self._reader: asyncio.Task[Any] | None = None
        self._stopped = False

    async def wait(self) -> None:
        """Wait for the first item, but no longer than a stream may be silent. Raises what is wrong with it."""
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
            raise ServiceStops
        self._reader = asyncio.current_task()
        try:
            async with asyncio.timeout_at(self.deadline):
                if self._first:
                    first, self._first = self._first, None
                    return await first
                return await anext(self._items)
        except asyncio.CancelledError:
            if self._stopped and self._reader:
                self._reader.uncancel()
                raise ServiceStops from None
            raise
        finally:
            self._reader = None

    def stop(self) -> None:
        """Raise `ServiceStops` in who waits for the next item, or asks for it."""
        self._stopped = True
        if self._reader:
            self._reader.cancel()

    async def aclose(self) -> None:
        """Stop the work."""
        if self._first:
            self._first.cancel()
            await asyncio.gather(self._first, return_exceptions=True)
        await self._items.aclose()


def stream_problem(error: Exception) -> Problem:
    """What a stream's last event tells of an error."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, TimeoutError):
        return Problem.timeout()
    logger.error("a stream failed", exc_info=error)
    return Problem.internal()
