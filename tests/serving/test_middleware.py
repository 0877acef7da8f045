"""The middleware without a server: internal errors."""

import asyncio
import logging

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.middleware import ContractMiddleware
from tests.client import check_error, check_problem


async def fail(request: Request) -> Response:
    raise RuntimeError("a secret")


def get(*paths: str) -> list[httpx.Response]:
    """Send a request to each path."""
    routes = [Route("/info", fail), Route("/v1/models", fail)]
    application = Starlette(routes=routes, middleware=[Middleware(ContractMiddleware)])

    async def get_all() -> list[httpx.Response]:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(get_all())


def test_an_internal_error_does_not_reveal_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "bentoml.trigen"):
        native, openai = get("/info", "/v1/models")
    check_problem(native, 500)
    check_error(openai, 500)
    assert "secret" not in native.text + openai.text
    assert caplog.text.count("RuntimeError: a secret") == 2
