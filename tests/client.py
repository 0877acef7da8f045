"""How the tests call the service, and what they expect of every error."""

from typing import Any

import httpx

from tests.conftest import Server

GENERATORS = ["/generate_text", "/generate_with_rnn", "/generate_with_llm"]


CONTEXT = "The lighthouse was built in 1889 by Anna Berg. It stands on the northern cape."


SEED_BODY = {"start_word": "The", "length": 20}


def post(server: Server, route: str, body: Any, timeout: float = 60) -> httpx.Response:
    return httpx.post(f"{server.url}{route}", json=body, timeout=timeout)


def check_problem(answer: httpx.Response, status: int, field: str | None = None) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert set(problem) >= {"type", "title", "status", "detail"}
    if field:
        assert field in problem["detail"]
        assert [fault["loc"][0] for fault in problem["errors"]] == [field]
