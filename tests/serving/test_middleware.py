"""What surrounds every request, without a server: faults of the service itself, and how texts are counted."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Scope

from serving.admission import ADMISSION, Admission
from serving.middleware import ContractMiddleware
from serving.problems import REQUEST, Problem
from serving.settings import settings
from tests.client import check_error, check_problem


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRIGEN_MAX_TEXTS", "4")
    settings.cache_clear()
    yield
    settings.cache_clear()


async def fails(request: Request) -> Response:
    raise RuntimeError("a secret")


async def takes(request: Request) -> Response:
    ADMISSION.take(3)
    taken = ADMISSION.texts

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0.01)
            yield str(ADMISSION.texts).encode()

    if "stream" in request.query_params:
        return StreamingResponse(body())
    return JSONResponse(taken)


def ask(*paths: str) -> list[httpx.Response]:
    routes = [Route("/info", fails), Route("/v1/models", fails), Route("/takes", takes)]
    application = Starlette(routes=routes, middleware=[Middleware(ContractMiddleware)])

    async def together() -> list[httpx.Response]:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return list(await asyncio.gather(*(client.get(path) for path in paths)))

    return asyncio.run(together())


def test_a_fault_is_a_problem_that_says_nothing_of_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "bentoml.trigen"):
        native, openai = ask("/info", "/v1/models")
    check_problem(native, 500)
    check_error(openai, 500)
    assert "secret" not in native.text + openai.text
    assert caplog.text.count("RuntimeError: a secret") == 2


def test_texts_are_counted_until_their_answer_has_ended(few: None) -> None:
    assert [answer.text for answer in ask("/takes")] == ["3"]
    assert ADMISSION.texts == 0
    streamed, refused = ask("/takes?stream", "/takes")
    assert streamed.text == "333"
    check_problem(refused, 429)
    assert ADMISSION.texts == 0


def test_what_is_more_than_the_limit_is_taken_alone(few: None) -> None:
    admission, first, second = Admission(), scope(), scope()
    REQUEST.set(first)
    admission.take(9)
    REQUEST.set(second)
    with pytest.raises(Problem, match="4 texts"):
        admission.take(1)
    admission.release(second)
    assert admission.texts == 9
    admission.release(first)
    admission.release(first)
    assert admission.texts == 0
    admission.take(4)


def scope() -> Scope:
    return {"type": "http", "path": "/", "state": {"request_id": "0"}}
