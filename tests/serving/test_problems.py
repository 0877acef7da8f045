"""What the real service answers when something is wrong, and what it logs."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client import CONTEXT, GENERATORS, SEED_BODY, check_problem, post
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


def test_a_context_that_does_not_fit_or_has_no_question_is_refused(server: Server) -> None:
    check_problem(post(server, "/answer_question", {"question": "Who?", "context": "¶" * 2000}), 422, "context")
    check_problem(post(server, "/generate_with_llm", {"start_word": "¶" * 2000, "length": 9}), 422, "start_word")
    check_problem(post(server, "/generate_with_llm", {"start_word": "Who?", "length": 9, "context": "¶" * 2000}), 422, "context")
    check_problem(post(server, "/generate_with_llm", SEED_BODY | {"context": CONTEXT}), 422, "context")
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
    check_problem(httpx.get(f"{server.url}/generate_text"), 405)


def test_a_client_error_is_one_line_in_the_log(server: Server) -> None:
    time.sleep(0.5)  # the lines of earlier requests
    before = server.log.read_text()
    post(server, "/generate_text", {"start_word": "The", "length": 0})
    deadline = time.monotonic() + 10
    while server.log.read_text() == before and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)  # for a second line, if there were one
    added = server.log.read_text().removeprefix(before)
    assert added.count("\n") == 1, added
    assert "(status=422," in added
    assert "Traceback" not in server.log.read_text()
