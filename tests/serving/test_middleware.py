"""The middleware without a server: internal errors and admission."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

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
from serving.problems import REQUEST_SCOPE, Problem
from tests.client import check_error, check_problem


@pytest.fixture
def limit_of_4_texts(set_setting: Callable[[str, str], None]) -> None:
    set_setting("TRIGEN_MAX_TEXTS", "4")


async def fail(request: Request) -> Response:
    raise RuntimeError("a secret")


async def take(request: Request) -> Response:
    ADMISSION.take(3)
    texts = ADMISSION.texts

    async def body() -> AsyncIterator[bytes]:
        yield str(ADMISSION.texts).encode()
        await request.app.state.other_answered.wait()
        yield str(ADMISSION.texts).encode()

    if "stream" in request.query_params:
        return StreamingResponse(body())
    return JSONResponse(texts)


def get(*paths: str) -> list[httpx.Response]:
    """Send a request to each path while those before it run. The first may wait until the last has been answered."""
    routes = [Route("/info", fail), Route("/v1/models", fail), Route("/take", take)]
    application = Starlette(routes=routes, middleware=[Middleware(ContractMiddleware)])

    async def get_all() -> list[httpx.Response]:
        application.state.other_answered = asyncio.Event()
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            *running, last = (asyncio.ensure_future(client.get(path)) for path in paths)
            responses = [await last]
            application.state.other_answered.set()
            return [*await asyncio.gather(*running), *responses]

    return asyncio.run(get_all())


def test_an_internal_error_does_not_reveal_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "bentoml.trigen"):
        native, openai = get("/info", "/v1/models")
    check_problem(native, 500)
    check_error(openai, 500)
    assert "secret" not in native.text + openai.text
    assert caplog.text.count("RuntimeError: a secret") == 2


def test_texts_are_counted_until_their_response_has_ended(limit_of_4_texts: None) -> None:
    assert [response.text for response in get("/take")] == ["3"]
    assert ADMISSION.texts == 0
    streamed, rejected = get("/take?stream", "/take")
    assert streamed.text == "33"
    check_problem(rejected, 429)
    assert ADMISSION.texts == 0


def test_a_request_above_the_limit_is_admitted_alone(limit_of_4_texts: None) -> None:
    admission, first, second = Admission(), scope(), scope()
    REQUEST_SCOPE.set(first)
    admission.take(9)
    REQUEST_SCOPE.set(second)
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
