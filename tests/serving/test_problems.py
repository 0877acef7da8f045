"""Errors of the real service: wrong, oversized and unauthorized requests, timeouts, and too many texts at once; and what it logs."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.client import CONTEXT, GENERATE_BODY, GENERATE_ROUTES, check_error, check_problem, get, post, waiting_texts
from tests.conftest import HANG_SECONDS, KEY, HeldServer, Server, wait_until

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("missing", {"length": 20}, "start_word"),
    ("zero", {"start_word": "The", "length": 0}, "length"),
    ("too long", {"start_word": "The", "length": 513}, "length"),
    ("string for a number", {"start_word": "The", "length": "20"}, "length"),
    ("number for a string", {"start_word": 7, "length": 20}, "start_word"),
    ("null", {"start_word": None, "length": 20}, "start_word"),
    ("empty prompt", {"start_word": "", "length": 20}, "start_word"),
    ("long prompt", {"start_word": "x" * 4001, "length": 20}, "start_word"),
    ("unknown field", GENERATE_BODY | {"lenght": 20}, "lenght"),
    ("temperature", GENERATE_BODY | {"temperature": 3}, "temperature"),
    ("top_p", GENERATE_BODY | {"top_p": 0}, "top_p"),
    ("top_k", GENERATE_BODY | {"top_k": -1}, "top_k"),
    ("seed", GENERATE_BODY | {"seed": 2**32}, "seed"),
    ("empty stop", GENERATE_BODY | {"stop": [""]}, "stop"),
]


@pytest.mark.parametrize("route", GENERATE_ROUTES)
@pytest.mark.parametrize(("body", "field"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_field_is_named(server: Server, route: str, body: dict[str, Any], field: str) -> None:
    check_problem(post(server, route, body), 422, field)


def test_one_problem_names_every_wrong_field(server: Server) -> None:
    problem = post(server, "/generate_text", {"length": 0, "temperature": "hot"}).json()
    assert {fault["loc"][0] for fault in problem["errors"]} == {"start_word", "length", "temperature"}


@pytest.mark.parametrize("route", [*GENERATE_ROUTES, "/answer_question"])
def test_a_body_that_is_not_a_json_object_is_refused(server: Server, route: str) -> None:
    def send(content: bytes, media_type: str = "application/json") -> httpx.Response:
        return httpx.post(f"{server.url}{route}", content=content, headers={"content-type": media_type}, timeout=HANG_SECONDS)

    check_problem(send(b'{"start_word": "The", '), 400)
    check_problem(send(b""), 400)
    check_problem(send(b"\xff\xfe"), 400)
    check_problem(send(b"[1, 2]"), 422)
    check_problem(send(b"start_word=The", "application/x-www-form-urlencoded"), 415)


def test_a_body_of_ten_megabytes_is_refused_with_and_without_a_content_length(server: Server) -> None:
    body = json.dumps({"start_word": "x" * 10_000_000, "length": 20}).encode()

    def send(content: bytes | Iterator[bytes]) -> httpx.Response:
        headers = {"content-type": "application/json"}
        return httpx.post(f"{server.url}/generate_text", content=content, headers=headers, timeout=HANG_SECONDS)

    check_problem(send(body), 413)
    chunks = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    try:
        response = send(chunks)
    except httpx.WriteError:
        return  # the server may respond and close the connection before the whole body has been sent
    check_problem(response, 413)


def test_a_context_that_does_not_fit_or_is_missing_is_refused(server: Server) -> None:
    check_problem(post(server, "/answer_question", {"question": "Who?", "context": "¶" * 2000}), 422, "context")
    check_problem(post(server, "/generate_with_llm", {"start_word": "¶" * 2000, "length": 9}), 422, "start_word")
    check_problem(post(server, "/generate_with_llm", {"start_word": "Who?", "length": 9, "context": "¶" * 2000}), 422, "context")
    check_problem(post(server, "/answer_question", {"question": "Who?"}), 422, "context")
    check_problem(post(server, "/generate_text", GENERATE_BODY | {"context": CONTEXT}), 422, "context")


def test_a_blank_question_or_context_is_refused(server: Server) -> None:
    check_problem(post(server, "/answer_question", {"question": " ", "context": CONTEXT}), 422, "question")
    check_problem(post(server, "/answer_question", {"question": "Who?", "context": "\n"}), 422, "context")


def test_a_request_stops_generating_when_its_client_leaves(strict: HeldServer) -> None:
    with strict.texts_held():
        connection = http.client.HTTPConnection(strict.url.removeprefix("http://"))
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        connection.request("POST", "/generate_with_rnn", json.dumps({"start_word": "The", "length": 512}), headers)
        strict.wait_for("started", 1)
        connection.close()
        strict.wait_for("closed", 1)
    assert post(strict, "/generate_with_rnn", GENERATE_BODY, key=KEY).status_code == 200


def test_a_slow_request_gets_504_and_makes_room_for_others(hurried: HeldServer) -> None:
    full = {"model": "rnn", "prompt": ["The"] * 15, "max_tokens": 1024}
    with hurried.texts_held(after=0), ThreadPoolExecutor(3) as pool:
        native = pool.submit(post, hurried, "/generate_with_rnn", {"start_word": "The", "length": 512})
        openai = pool.submit(post, hurried, "/v1/completions", full)
        waiting = pool.submit(post, hurried, "/v1/completions", full | {"prompt": ["The"] * 16})  # waits for one of the others
        check_problem(native.result(), 504)
        check_error(openai.result(), 504, code="timeout")
        check_error(waiting.result(), 504, code="timeout")
        wait_until(hurried.all_closed, "the texts of both requests are closed")
    response = post(hurried, "/v1/completions", full | {"max_tokens": 1})
    assert response.status_code != 429, response.text
    assert "Traceback" not in hurried.log.read_text()


def test_unknown_routes_and_methods_are_refused(server: Server) -> None:
    check_problem(get(f"{server.url}/nowhere"), 404)
    refused = get(f"{server.url}/generate_text")
    check_problem(refused, 405)
    assert refused.headers["allow"] == "POST"
    check_problem(httpx.post(f"{server.url}/generate_text/", json=GENERATE_BODY, timeout=HANG_SECONDS), 404)
    check_error(get(f"{server.url}/v1/nowhere"), 404)
    check_error(get(f"{server.url}/v1/completions"), 405)


def test_a_client_error_is_one_line_in_the_log_with_its_request_id(server: Server) -> None:
    responses = [
        get(f"{server.url}/first"),
        post(server, "/generate_text", {"start_word": "The", "length": 0}),
        post(server, "/v1/completions", {"model": "llm"}),
        get(f"{server.url}/last"),
    ]
    spans = [f"span={response.headers['x-request-id']}" for response in responses]
    wait_until(lambda: spans[-1] in server.log.read_text(), "the last request is in the log")
    # The service logs requests in order: from the first request's line to the last one's, every line is about these four.
    log = server.log.read_text().splitlines()
    first, last = (next(index for index, line in enumerate(log) if span in line) for span in (spans[0], spans[-1]))
    lines = log[first : last + 1]
    assert len(lines) == len(responses), lines
    for line, response, span in zip(lines, responses, spans, strict=True):
        assert f"(status={response.status_code}," in line
        assert span in line
    assert "Traceback" not in server.log.read_text()


def test_every_response_has_its_own_request_id(server: Server) -> None:
    responses = [post(server, "/generate_text", GENERATE_BODY) for _ in range(2)]
    for response in responses:
        assert response.headers["x-bentoml-request-id"] == response.headers["x-request-id"]
    responses += [get(f"{server.url}{path}") for path in ("/info", "/v1/models", "/livez", "/docs.json", "/nowhere")]
    assert len({response.headers["x-request-id"] for response in responses}) == len(responses)


def test_a_request_without_the_key_is_refused(strict: Server) -> None:
    for route, body in [("/generate_text", GENERATE_BODY), ("/answer_question", {"question": "Who?", "context": CONTEXT})]:
        for key in (None, "another", KEY[:-1]):
            refused = post(strict, route, body, key=key)
            check_problem(refused, 401)
            assert refused.headers["www-authenticate"] == "Bearer"
        assert post(strict, route, body, key=KEY).status_code == 200
    check_problem(get(f"{strict.url}/info"), 401)
    check_error(post(strict, "/v1/completions", {"model": "llm", "prompt": "The"}), 401, code="invalid_api_key")
    check_error(get(f"{strict.url}/v1/models"), 401)
    assert get(f"{strict.url}/livez").status_code == get(f"{strict.url}/readyz").status_code == 200


def test_texts_beyond_the_limit_wait_and_those_beyond_the_queue_are_refused(strict: HeldServer) -> None:
    full = {"model": "rnn", "prompt": ["The"] * 16, "max_tokens": 3, "seed": 1}
    with ThreadPoolExecutor(3) as pool:
        with strict.texts_held(after=0):
            running = pool.submit(post, strict, "/v1/completions", full, key=KEY)
            strict.wait_for("started", 16)
            waiting = pool.submit(post, strict, "/v1/completions", full, key=KEY)
            wait_until(lambda: waiting_texts(strict, "rnn") == 16, "16 texts wait")
            for stream in (False, True):
                refused = post(strict, "/generate_with_rnn", GENERATE_BODY | {"stream": stream}, key=KEY)
                check_problem(refused, 429)
                assert 1 <= int(refused.headers["retry-after"]) <= 60
                error = post(strict, "/v1/completions", full | {"prompt": "The", "stream": stream}, key=KEY)
                check_error(error, 429, code="too_many_requests")
            assert strict.events.read_text().split() == ["started"] * 16
            assert get(f"{strict.url}/livez").status_code == 200
            other_model = pool.submit(post, strict, "/generate_text", GENERATE_BODY, key=KEY)
            strict.wait_for("started", 17)  # the other models are not concerned
        texts = [[choice["text"] for choice in response.result().json()["choices"]] for response in (running, waiting)]
        assert texts[0] == texts[1]
        assert other_model.result().status_code == 200
    assert post(strict, "/generate_with_rnn", GENERATE_BODY, key=KEY).status_code == 200


def test_a_request_of_more_texts_than_the_limit_is_answered_when_no_other_runs(strict: Server) -> None:
    body = {"model": "rnn", "prompt": ["The"] * 16, "n": 8, "max_tokens": 1}
    assert post(strict, "/v1/completions", body, key=KEY).status_code == 200


def test_a_body_over_the_limit_is_refused_on_every_route(strict: Server) -> None:
    check_problem(post(strict, "/answer_question", {"question": "Who?", "context": "x" * 20_000}, key=KEY), 413)
    check_error(post(strict, "/v1/completions", {"model": "llm", "prompt": "x" * 20_000}, key=KEY), 413)
