"""The client's own deadline: `X-Request-Timeout`."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request

from serving.deadline import deadline, start_deadline, time_limit
from serving.problems import REQUEST_SCOPE, Problem
from serving.settings import settings
from tests.client import GENERATE_BODY, check_error, check_problem, read_event
from tests.conftest import HANG_SECONDS, KEY, HeldServer


def post(server: HeldServer, route: str, body: dict[str, Any], timeout: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}", "x-request-timeout": timeout}
    return httpx.post(f"{server.url}{route}", json=body, headers=headers, timeout=HANG_SECONDS)


@pytest.mark.parametrize("route", ["/generate_text", "/generate_with_rnn", "/generate_with_llm"])
def test_the_header_lowers_the_time_of_a_request(strict: HeldServer, route: str) -> None:
    with strict.texts_held():
        response = post(strict, route, GENERATE_BODY, "0.2")
        check_problem(response, 504)
        assert "longer than 0.2 seconds" in response.json()["detail"]
        strict.wait_for("closed", 1)


def test_the_header_lowers_the_time_of_a_stream(strict: HeldServer) -> None:
    with strict.texts_held(after=0):
        native = post(strict, "/generate_with_rnn", {"start_word": "The", "length": 512, "stream": True}, "0.7")
        openai = post(strict, "/v1/completions", {"model": "rnn", "prompt": "The", "stream": False}, ".5")
        strict.wait_for("closed", 2)
    check_error(openai, 504, code="timeout")
    if native.status_code == 504:  # a slow machine may not send the first event in time
        return
    last = read_event([line for line in native.text.splitlines() if line.startswith("data: ")][-1])
    assert (last["finish_reason"], last["problem"]["status"]) == ("error", 504)
    assert "longer than 0.7 seconds" in last["problem"]["detail"]


def start(*values: str) -> tuple[float, float]:
    """Return the time limit and the remaining time of a request with these headers."""

    async def run() -> tuple[float, float]:
        scope = {"type": "http", "path": "/", "state": {}, "headers": [(b"x-request-timeout", value.encode()) for value in values]}
        REQUEST_SCOPE.set(scope)
        before = asyncio.get_running_loop().time()
        start_deadline(Request(scope))
        return time_limit(), deadline() - before

    return asyncio.run(run())


@given(st.floats(0.001, 10_000).map(lambda seconds: f"{seconds:.3f}") | st.floats(0, exclude_min=True, allow_infinity=False).map(repr))
@example("1" * 400)
def test_the_header_never_exceeds_the_setting(value: str) -> None:
    limit, remaining = start(value)
    assert limit == min(float(value), settings().timeout_seconds)
    assert remaining >= limit * 0.999


def test_without_the_header_the_setting_applies(set_setting: Callable[[str, str], None]) -> None:
    set_setting("TRIGEN_TIMEOUT_SECONDS", "7")
    assert start()[0] == 7


@pytest.mark.parametrize("values", [(value,) for value in ("", "0", "-1", "nan", "inf", "1e", "1 s", "٣", "0x1", "\n")] + [("1", "2")])
def test_what_is_not_a_positive_number_of_seconds_is_refused(values: tuple[str, ...]) -> None:
    with pytest.raises(Problem, match="must be a positive number of seconds") as raised:
        start(*values)
    assert raised.value.status == 400
    assert raised.value.detail.isprintable()
