"""Draining without a server: what happens between SIGTERM and the end of uvicorn."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from serving.edge import drain
from serving.edge.drain import Drain
from serving.middleware import ContractMiddleware
from tests.conftest import HANG_SECONDS


@pytest.fixture
def stopped() -> Iterator[Callable[[], bool]]:
    """Whether uvicorn's handler of SIGTERM, which a function stands in for, has been called."""
    calls: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: calls.append(number))
    yield lambda: bool(calls)
    signal.signal(signal.SIGTERM, previous)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


def test_uvicorn_stops_when_the_last_request_has_ended(stopped: Callable[[], bool]) -> None:
    async def main() -> None:
        worker, may_end = Drain(), asyncio.Event()

        async def answer() -> None:
            with worker.request():
                await may_end.wait()

        with worker.on_sigterm(0):
            request = asyncio.ensure_future(answer())
            await until(lambda: worker.open_requests == 1)
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: worker.refusing)
            await asyncio.sleep(3 * drain.CHECK_SECONDS)
            assert worker.draining
            assert not stopped()
            may_end.set()
            await until(stopped)
            await request

    asyncio.run(main())


def test_requests_are_accepted_while_readiness_fails(stopped: Callable[[], bool]) -> None:
    async def main() -> None:
        worker = Drain()
        with worker.on_sigterm(3600):
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: worker.draining)
            await asyncio.sleep(3 * drain.CHECK_SECONDS)
            assert not worker.refusing
            assert not stopped()

    asyncio.run(main())


@pytest.mark.parametrize(("path", "status"), [("/info", 503), ("/livez", 200)])
def test_a_worker_that_is_about_to_exit_refuses_all_but_probes(path: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> Message:
        raise AssertionError

    async def main() -> None:
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        await ContractMiddleware(application)(scope, receive, send)
        assert messages[0]["status"] == status
        assert ((b"connection", b"close") in messages[0]["headers"]) == (status == 503)

    monkeypatch.setattr(drain.DRAIN, "refusing", True)
    asyncio.run(main())
