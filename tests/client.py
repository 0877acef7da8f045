"""How the tests call the service, and what every error must look like."""

import functools
import json
from typing import Any

import httpx

from tests.conftest import HANG_SECONDS, KEY, Server
from tests.contract import check_response, check_schema

GENERATE_ROUTES = ["/generate_text", "/generate_with_rnn", "/generate_with_llm"]
MODELS = ["bigram", "rnn", "llm"]
CONTEXT = "The lighthouse was built in 1889 by Anna Berg. It stands on the northern cape."
GENERATE_BODY = {"start_word": "The", "length": 20}
get = functools.partial(httpx.get, timeout=HANG_SECONDS)  # httpx's own limit of five seconds would fail on a slow machine


def post(server: Server, route: str, body: Any, key: str | None = None) -> httpx.Response:
    """Send a request and check the response against the OpenAPI document."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    response = httpx.post(f"{server.url}{route}", json=body, timeout=HANG_SECONDS, headers=headers)
    check_response(response)
    return response


def waiting_texts(server: Server, model: str) -> int:
    """Return how many texts of a model of the server `strict` wait for admission."""
    metrics = get(f"{server.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    (line,) = (line for line in metrics.splitlines() if line.startswith(f'vllm:num_requests_waiting{{model_name="{model}"}}'))
    return int(float(line.split()[-1]))


def complete(server: Server, model: str = "llm", **fields: Any) -> Any:
    """Return the body of a successful response of `/v1/completions`."""
    response = post(server, "/v1/completions", {"model": model, "prompt": "The light"} | fields)
    assert response.status_code == 200, response.text
    return response.json()


def stream_events(server: Server, route: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a stream, each checked against the OpenAPI document."""
    with httpx.stream("POST", f"{server.url}{route}", json=body | {"stream": True}, timeout=HANG_SECONDS) as response:
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        check_response(response)
        lines = [line for line in response.iter_lines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    if route == "/v1/completions":
        assert lines.pop() == "data: [DONE]"
    events = [read_event(line) for line in lines]
    for event in events:
        check_schema(event, "CompletionChunk" if route == "/v1/completions" else "GenerateEvent")
    return events


def read_event(line: str) -> dict[str, Any]:
    """Parse the JSON of a `data:` line."""
    event: dict[str, Any] = json.loads(line.removeprefix("data: "))
    return event


def check_problem(response: httpx.Response, status: int, field: str | None = None) -> None:
    """Check that the response is a problem document, whose only error is about `field` if one is given."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    check_schema(problem, "ProblemDetails")
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    if field:
        assert field in problem["detail"]
        assert [fault["loc"][0] for fault in problem["errors"]] == [field]


def check_error(response: httpx.Response, status: int, param: str | None = None, code: str | None = None) -> None:
    """Check that the response is an error in OpenAI's format, as all routes under `/v1` return it. Without `code`, any code will do."""
    assert response.status_code == status, response.text
    check_schema(response.json(), "ErrorResponse")
    error = response.json()["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert (error["param"], error["code"]) == (param, code or error["code"])
