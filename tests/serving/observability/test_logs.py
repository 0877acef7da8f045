"""The log as JSON, one object a line."""

import json
import logging
from typing import Any

from serving.observability.logs import JSONFormatter
from serving.problems import REQUEST_SCOPE
from tests.client import GENERATE_BODY, get, post
from tests.conftest import KEY, HeldServer, wait_until


def test_each_line_of_the_log_is_a_json_object_with_the_request_id(strict: HeldServer) -> None:
    responses = [post(strict, "/generate_text", GENERATE_BODY, key=KEY), get(f"{strict.url}/nowhere")]
    ids = [response.headers["x-request-id"] for response in responses]
    wait_until(lambda: all(id in strict.log.read_text() for id in ids), "both requests are in the log")
    entries = [json.loads(line) for line in strict.log.read_text().splitlines()]
    for entry in entries:
        assert {"time", "level", "logger", "message"} <= set(entry)
    for id in ids:
        (entry,) = (entry for entry in entries if entry.get("request_id") == id)
        assert (entry["level"], entry["logger"]) == ("INFO", "bentoml.access")
        assert len(entry["trace_id"]) == 32


def format_record(message: str, **extra: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"name": "test", "levelname": "ERROR", "msg": message, **extra})
    line = JSONFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    entry: dict[str, Any] = json.loads(line)
    return entry


def test_a_message_of_several_lines_and_its_traceback_stay_in_one_line() -> None:
    try:
        raise ValueError("one\ntwo\u2028three")
    except ValueError as error:
        entry = format_record("first\nsecond", exc_info=(type(error), error, error.__traceback__), status=500)
    assert (entry["message"], entry["status"], entry["level"]) == ("first\nsecond", 500, "ERROR")
    assert "one\ntwo\u2028three" in entry["exc_info"]
    assert "request_id" not in entry


def test_the_id_of_the_current_request_is_logged() -> None:
    token = REQUEST_SCOPE.set({"type": "http", "state": {"request_id": "00ff"}})
    try:
        assert format_record("failed")["request_id"] == "00ff"
    finally:
        REQUEST_SCOPE.reset(token)
