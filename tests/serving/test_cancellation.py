"""Cancellation of requests, without a server."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import Request
from starlette.types import Message

from serving.cancellation import with_cancellation
from serving.problems import Problem

PATIENCE = 60.0
"""A timeout that no test reaches."""


class Connection:
    """The receiving side of a connection whose client disconnects when `disconnected` is set."""

    def __init__(self) -> None:
        self.disconnected = asyncio.Event()
        self.readers = 0

    async def receive(self) -> Message:
        self.readers += 1
        try:
            await self.disconnected.wait()
            return {"type": "http.disconnect"}
        finally:
            self.readers -= 1


def run(scenario: Callable[[Request, Connection], Awaitable[None]]) -> None:
    async def main() -> None:
        connection = Connection()
        await scenario(Request({"type": "http"}, connection.receive), connection)

    asyncio.run(main())


def test_a_result_is_returned_after_the_listener_has_stopped() -> None:
    async def scenario(request: Request, connection: Connection) -> None:
        async def handler() -> str:
            assert connection.readers == 0
            request.state.body_read.set()
            while not connection.readers:
                await asyncio.sleep(0)
            return "done"

        assert await with_cancellation(handler(), request, PATIENCE) == "done"
        assert connection.readers == 0

    run(scenario)


def test_an_error_of_the_handler_is_raised() -> None:
    async def scenario(request: Request, connection: Connection) -> None:
        async def handler() -> None:
            raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            await with_cancellation(handler(), request, PATIENCE)

    run(scenario)


def test_a_disconnect_cancels_the_handler() -> None:
    async def scenario(request: Request, connection: Connection) -> None:
        cancelled = asyncio.Event()

        async def handler() -> None:
            request.state.body_read.set()
            connection.disconnected.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        with pytest.raises(Problem) as raised:
            await with_cancellation(handler(), request, PATIENCE)
        assert raised.value.status == 400
        await asyncio.wait_for(cancelled.wait(), PATIENCE)

    run(scenario)


def test_a_timeout_cancels_the_handler() -> None:
    async def scenario(request: Request, connection: Connection) -> None:
        cancelled = asyncio.Event()

        async def handler() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        with pytest.raises(Problem) as raised:
            await with_cancellation(handler(), request, 0.01)
        assert raised.value.status == 504
        await asyncio.wait_for(cancelled.wait(), PATIENCE)
        assert connection.readers == 0

    run(scenario)


def test_nothing_listens_before_the_body_has_been_read() -> None:
    async def scenario(request: Request, connection: Connection) -> None:
        connection.disconnected.set()

        async def handler() -> str:
            for _ in range(10):
                await asyncio.sleep(0)
            return "done"

        assert await with_cancellation(handler(), request, PATIENCE) == "done"

    run(scenario)
