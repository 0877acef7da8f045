"""Event streams without a server: the deadline and the end of the service, whatever the speed of the machine."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from serving.streaming import EventStream, ServiceStopping
from tests.conftest import HANG_SECONDS

SCOPE = {"type": "http", "asgi": {"spec_version": "2.4"}}


class Source:
    """An endless source that pauses after its first item, and records that it has been closed."""

    def __init__(self) -> None:
        self.paused, self.closed = asyncio.Event(), False

    async def items(self) -> AsyncGenerator[str]:
        try:
            yield "first"
            self.paused.set()
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def encode(items: AsyncIterator[str]) -> AsyncGenerator[str]:
    try:
        async for item in items:
            yield item
    except (TimeoutError, ServiceStopping) as error:
        yield type(error).__name__


def stream(interrupt: Callable[["asyncio.Task[None]"], object]) -> tuple[bytes, bool]:
    """Send a stream, call `interrupt` once the source has paused, and return the body and whether the source has been closed."""

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> tuple[bytes, bool]:
        source, body = Source(), bytearray()

        async def send(message: Message) -> None:
            body.extend(message.get("body", b""))

        response = await EventStream.open(source.items(), encode)
        sending = asyncio.create_task(response(SCOPE, receive, send))
        await asyncio.wait_for(source.paused.wait(), HANG_SECONDS)
        interrupt(sending)
        await asyncio.wait([sending], timeout=HANG_SECONDS)
        return bytes(body), source.closed

    return asyncio.run(main())


def test_a_timeout_is_the_last_event_and_closes_the_source(set_setting: Callable[[str, str], None]) -> None:
    set_setting("TRIGEN_TIMEOUT_SECONDS", "1")
    assert stream(lambda _: None) == (b"data: first\n\ndata: TimeoutError\n\n", True)


def test_a_stopping_service_is_the_last_event_and_closes_the_source() -> None:
    assert stream(lambda sending: sending.cancel()) == (b"data: first\n\ndata: ServiceStopping\n\n", True)


def test_a_client_that_leaves_between_two_events_closes_the_source() -> None:
    closed = False

    async def items() -> AsyncGenerator[str]:
        nonlocal closed
        try:
            while True:
                yield "item"
        finally:
            closed = True

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the connection is closed")

    async def main() -> bool:
        response = await EventStream.open(items(), encode)
        with pytest.raises(ClientDisconnect):
            await response(SCOPE, receive, send)
        return closed  # before the end of the event loop, which would close the source too

    assert asyncio.run(main())
