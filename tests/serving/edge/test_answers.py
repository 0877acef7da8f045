"""What the service answers to a hostile body or path is short, and what it logs is one whole line."""

import json
import logging
import re
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.api.schemas import GenerateRequest
from serving.edge.escaping import EscapingFilter, log_field, printable
from serving.problems import MAX_FAULTS, Fault, Problem, invalid_body
from tests.client import GENERATE_ROUTES, check_error, check_problem, get
from tests.conftest import HANG_SECONDS, Server, wait_until
from tests.serving.edge.raw import request, send

MAX_BYTES = 8_000
REFUSED_TYPES = [
    "application/vnd.bentoml+pickle",
    "Application/Vnd.BentoML+Pickle; charset=utf-8",
    "multipart/form-data; boundary=x",
    "application/json, application/json",
    "application/json; charset=utf-16",
    "application/json; charset=",
    "application/jsonp",
    "json",
    ";",
    "",
    "x" * 10_000,
]


def post(server: Server, route: str, content: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}{route}", content=content, headers={"content-type": "application/json"} | headers, timeout=HANG_SECONDS)


@pytest.mark.parametrize("media_type", REFUSED_TYPES, ids=range(len(REFUSED_TYPES)))
def test_every_media_type_but_json_in_utf_8_gets_415(server: Server, media_type: str) -> None:
    for content in (b"\x80\x04N.", b'{"start_word": "The", "length": 1}'):
        response = post(server, "/generate_text", content, **{"content-type": media_type})
        check_problem(response, 415)
        assert len(response.content) < 1_000
        check_error(post(server, "/v1/completions", content, **{"content-type": media_type}), 415)


def test_a_compressed_body_gets_415(server: Server) -> None:
    check_problem(post(server, "/generate_text", b"x", **{"content-encoding": "gzip"}), 415)


def test_json_may_declare_its_charset(server: Server) -> None:
    for media_type in ("application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"', "application/json; x=y"):
        assert post(server, "/generate_text", b'{"start_word": "The", "length": 1}', **{"content-type": media_type}).status_code == 200


HOSTILE: list[Any] = [
    {f"k{number}": 1 for number in range(90_000)},
    {f"key{number}": number for number in range(3_000)},
    {"k" * 900_000: 1},
    {"\n\x1b[31m" * 50_000: 1},
    {"start_word": "The", "length": 1, "stop": [0] * 300_000},
    {"model": "m" * 900_000, "prompt": "The"},
    {"model": "\x1b\n" * 100_000, "prompt": "The"},
    {"model": "llm", "prompt": [["x"]] * 100_000},
    {"model": "llm", "prompt": [[10**400]]},
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("route", [*GENERATE_ROUTES, "/answer_question", "/v1/completions"])
def test_a_validation_error_is_short(server: Server, route: str, body: Any) -> None:
    response = post(server, route, json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())
    assert 400 <= response.status_code < 500
    assert len(response.content) < MAX_BYTES
    problem = response.json()
    detail = problem["error"]["message"] if "error" in problem else problem["detail"]
    assert detail.isprintable()
    assert len(problem.get("errors", [])) <= MAX_FAULTS


def test_a_validation_error_says_how_many_errors_it_does_not_list(server: Server) -> None:
    problem = post(server, "/generate_text", json.dumps({f"key{number}": 1 for number in range(100)}).encode()).json()
    assert len(problem["errors"]) == MAX_FAULTS
    assert problem["detail"].endswith("; and 82 more errors")  # with start_word and length, which are missing
    problem = post(server, "/generate_text", json.dumps({f"key{number}": 1 for number in range(10_000)}).encode()).json()
    assert problem["detail"] == "body: 10,002 errors, which are too many to list"


@given(st.dictionaries(st.text(st.characters(), max_size=80), st.integers(), max_size=40), st.text(st.characters(), max_size=5_000))
def test_a_problem_is_always_bounded_and_valid_json(body: dict[str, int], text: str) -> None:
    with pytest.raises(ValidationError) as raised:
        GenerateRequest.model_validate(body | {"length": 0})
    for problem in (invalid_body(raised.value), Problem(404, text, [Fault(loc=[text, text] * 20, msg=text, type="x")])):
        assert problem.errors is not None
        content = json.dumps([problem.detail, [fault.model_dump() for fault in problem.errors]], ensure_ascii=False).encode()
        assert len(content) < 200_000
        assert problem.detail.isprintable()


@given(st.text(st.characters(), max_size=400))
def test_escaped_text_is_printable_and_a_log_field_has_no_delimiter(text: str) -> None:
    assert printable(text, 100).isprintable()
    if text.isprintable() and len(text) <= 100:
        assert printable(text, 100) == text
    assert re.fullmatch(r"[!-~ ]*", log_field(text))
    assert not re.search(r"[(),\"%](?![0-9A-F]{2})", log_field(text))


def test_every_message_is_one_line_whoever_logs_it() -> None:
    record = logging.LogRecord("library", logging.WARNING, __file__, 1, "entry %s", ("a\n2026-01-01 forged\x9b31m",), None)
    assert EscapingFilter().filter(record)
    assert record.getMessage() == "entry a\\n2026-01-01 forged\\x9b31m"


def test_no_request_breaks_or_forges_a_log_line(server: Server) -> None:
    paths = [
        b"/first%0a2026-01-01T00:00:00+0000%20[INFO]",
        b"/%0d%1b[31m",
        b"/%00",
        b"/%c2%85%e2%80%a8",
        b"/a)%20(status=200,type=",
        b"/last%0A",
    ]
    for path in paths:
        headers = [(b"baggage", b"\xc2\x9b31m,\xc2\x85=;"), (b"content-type", b"a\xc2\x85),(status=200")]
        assert send(server, request("POST", path, b"", *headers)).status == 404
    wait_until(lambda: "/last" in server.log.read_text(), "the last request is in the log")
    log = server.log.read_text()
    assert all(character.isprintable() or character == "\n" for character in log)
    assert [line for line in log.splitlines() if not re.match(r"\d{4}-\d\d-\d\dT", line)] == []
    assert not any(line.count("(status=200") for line in log.splitlines() if "path=/a)" in line or "/a%29" in line)


def test_responses_have_security_headers(server: Server) -> None:
    for path in ("/", "/docs", "/docs.json", "/livez", "/nowhere", "/v1/models", "/static_content/swagger-ui.css"):
        headers = get(f"{server.url}{path}").headers
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert ("no-store" in headers.get("cache-control", "")) == (not path.startswith("/static_content/"))
        assert "access-control-allow-origin" not in headers
    policy = get(f"{server.url}/docs").headers["content-security-policy"]
    assert re.search(r"script-src 'self' 'sha256-[A-Za-z0-9+/=]{44}'", policy)
