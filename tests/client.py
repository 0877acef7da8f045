"""How the tests call the service, and what they expect of every error."""

import json
from typing import Any

import httpx

from tests.conftest import Server
from tests.contract import check_answer, check_schema

GENERATORS = ["/generate_text", "/generate_with_rnn", "/generate_with_llm"]
MODELS = ["bigram", "rnn", "llm"]


CONTEXT = "The lighthouse was built in 1889 by Anna Berg. It stands on the northern cape."


SEED_BODY = {"start_word": "The", "length": 20}


def post(server: Server, route: str, body: Any, timeout: float = 60, key: str | None = None) -> httpx.Response:
    """Ask, and hold the answer against the document."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    answer = httpx.post(f"{server.url}{route}", json=body, timeout=timeout, headers=headers)
    check_answer(answer)
    return answer


def complete(server: Server, model: str = "llm", **fields: Any) -> Any:
    """What `/v1/completions` answers."""
    answer = post(server, "/v1/completions", {"model": model, "prompt": "The light"} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(server: Server, route: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """What a stream's `data:` lines say, each held against the document."""
    with httpx.stream("POST", f"{server.url}{route}", json=body | {"stream": True}, timeout=60) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        check_answer(answer)
        lines = [line for line in answer.iter_lines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    if route == "/v1/completions":
        assert lines.pop() == "data: [DONE]"
    read = [json.loads(line.removeprefix("data: ")) for line in lines]
    for event in read:
        check_schema(event, "CompletionChunk" if route == "/v1/completions" else "GenerateEvent")
    return read


def check_problem(answer: httpx.Response, status: int, field: str | None = None) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    check_schema(problem, "ProblemDetails")
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    if field:
        assert field in problem["detail"]
        assert [fault["loc"][0] for fault in problem["errors"]] == [field]


def check_error(answer: httpx.Response, status: int, param: str | None = None, code: str | None = None) -> None:
    """As `check_problem`, on `/v1`."""
    assert answer.status_code == status, answer.text
    check_schema(answer.json(), "ErrorResponse")
    error = answer.json()["error"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert (error["param"], error["code"]) == (param, code or error["code"])
