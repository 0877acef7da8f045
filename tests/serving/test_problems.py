"""What the real service answers when something is wrong, and what it logs."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client import CONTEXT, GENERATORS, SEED_BODY, check_error, check_problem, post
from tests.conftest import Server, Trained, serve

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("missing", {"length": 20}, "start_word"),
    ("zero", {"start_word": "The", "length": 0}, "length"),
    ("too long", {"start_word": "The", "length": 513}, "length"),
    ("text for a number", {"start_word": "The", "length": "20"}, "length"),
    ("number for a text", {"start_word": 7, "length": 20}, "start_word"),
    ("null", {"start_word": None, "length": 20}, "start_word"),
    ("empty prompt", {"start_word": "", "length": 20}, "start_word"),
    ("long prompt", {"start_word": "x" * 4001, "length": 20}, "start_word"),
    ("unknown field", SEED_BODY | {"lenght": 20}, "lenght"),
    ("temperature", SEED_BODY | {"temperature": 3}, "temperature"),
    ("top_p", SEED_BODY | {"top_p": 0}, "top_p"),
    ("top_k", SEED_BODY | {"top_k": -1}, "top_k"),
    ("seed", SEED_BODY | {"seed": 2**32}, "seed"),
    ("empty stop", SEED_BODY | {"stop": [""]}, "stop"),
]


@pytest.mark.parametrize("route", GENERATORS)
@pytest.mark.parametrize(("body", "field"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_field_is_named(server: Server, route: str, body: dict[str, Any], field: str) -> None:
    check_problem(post(server, route, body), 422, field)


def test_every_wrong_field_is_named_at_once(server: Server) -> None:
    problem = post(server, "/generate_text", {"length": 0, "temperature": "hot"}).json()
    assert {fault["loc"][0] for fault in problem["errors"]} == {"start_word", "length", "temperature"}


@pytest.mark.parametrize("route", [*GENERATORS, "/answer_question"])
def test_bodies_that_are_no_json_object(server: Server, route: str) -> None:
    def send(content: bytes, media_type: str = "application/json") -> httpx.Response:
        return httpx.post(f"{server.url}{route}", content=content, headers={"content-type": media_type})

    check_problem(send(b'{"start_word": "The", '), 400)
    check_problem(send(b""), 400)
    check_problem(send(b"\xff\xfe"), 400)
    check_problem(send(b"[1, 2]"), 422)
    check_problem(send(b"start_word=The", "application/x-www-form-urlencoded"), 415)


def test_a_body_of_ten_megabytes_is_refused_with_and_without_its_length(server: Server) -> None:
    body = json.dumps({"start_word": "x" * 10_000_000, "length": 20}).encode()
    check_problem(httpx.post(f"{server.url}/generate_text", content=body, headers={"content-type": "application/json"}), 413)
    chunks = (body[at : at + 65_536] for at in range(0, len(body), 65_536))
    try:
        answer = httpx.post(f"{server.url}/generate_text", content=chunks, headers={"content-type": "application/json"})
    except httpx.WriteError:
        return  # the server had answered and closed before all was sent, as it may
    check_problem(answer, 413)


def test_a_context_that_does_not_fit_or_is_missing_is_refused(server: Server) -> None:
    check_problem(post(server, "/answer_question", {"question": "Who?", "context": "¶" * 2000}), 422, "context")
    check_problem(post(server, "/generate_with_llm", {"start_word": "¶" * 2000, "length": 9}), 422, "start_word")
    check_problem(post(server, "/generate_with_llm", {"start_word": "Who?", "length": 9, "context": "¶" * 2000}), 422, "context")
    check_problem(post(server, "/answer_question", {"question": "Who?"}), 422, "context")
    check_problem(post(server, "/generate_text", SEED_BODY | {"context": CONTEXT}), 422, "context")


def test_a_blank_question_or_context_is_refused(server: Server) -> None:
    check_problem(post(server, "/answer_question", {"question": " ", "context": CONTEXT}), 422, "question")
    check_problem(post(server, "/answer_question", {"question": "Who?", "context": "\n"}), 422, "context")


def test_a_client_that_leaves_stops_the_work_and_the_service_goes_on(server: Server) -> None:
    before = server.log.read_text()

    def leave(_: int) -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/generate_with_rnn", json={"start_word": "." * 4000, "length": 512}, timeout=0.1)

    with ThreadPoolExecutor(8) as pool:  # alone it might be answered before the service looks for its client
        list(pool.map(leave, range(8)))
    deadline = time.monotonic() + 10
    while "(status=400" not in server.log.read_text().removeprefix(before):
        assert time.monotonic() < deadline, "the service has not noticed that its client left"
        time.sleep(0.1)
    assert post(server, "/generate_with_rnn", SEED_BODY).status_code == 200


def test_what_is_not_answered_in_time_is_given_up(trained: Trained, tmp_path: Path) -> None:
    body = {"start_word": "a " * 2000, "length": 512}
    with serve(trained, tmp_path / "log", TRIGEN_TIMEOUT_SECONDS="1") as hurried, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(hurried, "/generate_with_rnn", body), range(16)))
        late = [answer for answer in answers if answer.status_code != 200]
        assert late
        for answer in late:
            check_problem(answer, 504)
        assert post(hurried, "/generate_with_rnn", SEED_BODY).status_code == 200
        assert "Traceback" not in hurried.log.read_text()


def test_unknown_routes_and_methods(server: Server) -> None:
    check_problem(httpx.get(f"{server.url}/nowhere"), 404)
    refused = httpx.get(f"{server.url}/generate_text")
    check_problem(refused, 405)
    assert refused.headers["allow"] == "POST"
    check_problem(httpx.post(f"{server.url}/generate_text/", json=SEED_BODY), 404)
    check_error(httpx.get(f"{server.url}/v1/nowhere"), 404)
    check_error(httpx.get(f"{server.url}/v1/completions"), 405)


def test_a_client_error_is_one_line_in_the_log_with_the_request_that_the_answer_names(server: Server) -> None:
    time.sleep(0.5)  # the lines of earlier requests
    before = server.log.read_text()
    refused = [
        post(server, "/generate_text", {"start_word": "The", "length": 0}),
        post(server, "/v1/completions", {"model": "llm"}),
        httpx.get(f"{server.url}/nowhere"),
    ]
    deadline = time.monotonic() + 10
    while server.log.read_text().removeprefix(before).count("\n") < len(refused) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)  # for another line, if there were one
    lines = server.log.read_text().removeprefix(before).splitlines()
    assert len(lines) == len(refused), lines
    for line, answer in zip(lines, refused, strict=True):
        assert f"(status={answer.status_code}," in line
        assert f"span={answer.headers['x-request-id']}" in line
    assert "Traceback" not in server.log.read_text()


def test_every_answer_has_a_request_id_of_its_own(server: Server) -> None:
    answers = [post(server, "/generate_text", SEED_BODY) for _ in range(2)]
    answers += [httpx.get(f"{server.url}{path}") for path in ("/info", "/v1/models", "/livez", "/docs.json", "/nowhere")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


KEY = "a key"


@pytest.fixture(scope="module")
def strict(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key, little time and room for few."""
    settings = {"TRIGEN_API_KEY": KEY, "TRIGEN_TIMEOUT_SECONDS": "2", "TRIGEN_MAX_TEXTS": "16", "TRIGEN_MAX_BODY_BYTES": "20000"}
    with serve(trained, tmp_path_factory.mktemp("strict") / "log", **settings) as running:
        yield running


def test_who_has_no_key_is_told_so(strict: Server) -> None:
    for route, body in [("/generate_text", SEED_BODY), ("/answer_question", {"question": "Who?", "context": CONTEXT})]:
        for key in (None, "another", KEY[:-1]):
            refused = post(strict, route, body, key=key)
            check_problem(refused, 401)
            assert refused.headers["www-authenticate"] == "Bearer"
        assert post(strict, route, body, key=KEY).status_code == 200
    check_problem(httpx.get(f"{strict.url}/info"), 401)
    check_error(post(strict, "/v1/completions", {"model": "llm", "prompt": "The"}), 401, code="invalid_api_key")
    check_error(httpx.get(f"{strict.url}/v1/models"), 401)
    for path in ("/", "/docs.json", "/livez", "/readyz", "/metrics", "/static_content/swagger-ui.css"):
        assert httpx.get(f"{strict.url}{path}").status_code == 200


def test_more_than_there_is_room_for_is_refused_and_told_when_to_come_again(strict: Server) -> None:
    slow = {"model": "rnn", "prompt": ["The"] * 16, "max_tokens": 1024, "stop": "no such text"}
    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(post, strict, "/v1/completions", slow, key=KEY) for _ in range(2)]
        time.sleep(0.7)
        refused = post(strict, "/generate_text", SEED_BODY, key=KEY)
        check_problem(refused, 429)
        assert int(refused.headers["retry-after"]) >= 1
        check_error(post(strict, "/v1/completions", {"model": "llm", "prompt": "The"}, key=KEY), 429)
        assert httpx.get(f"{strict.url}/livez").status_code == 200
        first, second = sorted((each.result() for each in working), key=lambda answer: answer.status_code)
        check_error(first, 429, code="too_many_requests")
        check_error(second, 504, code="timeout")
    assert post(strict, "/generate_text", SEED_BODY, key=KEY).status_code == 200  # what was given up is no longer counted
    alone = {"model": "bigram", "prompt": ["The"] * 16, "n": 8, "max_tokens": 1}
    assert post(strict, "/v1/completions", alone, key=KEY).status_code == 200  # nobody else waits


def test_a_body_beyond_the_setting_is_refused_on_every_route(strict: Server) -> None:
    check_problem(post(strict, "/answer_question", {"question": "Who?", "context": "x" * 20_000}, key=KEY), 413)
    check_error(post(strict, "/v1/completions", {"model": "llm", "prompt": "x" * 20_000}, key=KEY), 413)
