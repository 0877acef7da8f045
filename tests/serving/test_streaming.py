"""Streams of the real service: complete, timed out, abandoned, and cut off by a failing engine or a stopping service."""

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.client import GENERATE_BODY, GENERATE_ROUTES, check_problem, get, post, read_event, stream_events
from tests.conftest import HANG_SECONDS, KEY, HeldServer, Server, Trained, serve, serve_held
from tests.contract import check_response


@pytest.mark.parametrize("route", GENERATE_ROUTES)
def test_a_stream_is_the_text_in_pieces_and_its_last_event_says_how_it_ended(server: Server, route: str) -> None:
    body = GENERATE_BODY | {"seed": 7, "temperature": 0}
    whole = post(server, route, body).json()
    *pieces, last = stream_events(server, route, body)
    assert whole["generated_text"] == "The" + "".join(event["text"] for event in [*pieces, last])
    assert all(set(piece) == {"text"} for piece in pieces)
    hot = GENERATE_BODY | {"temperature": 2, "top_p": 1, "seed": 7}  # a tiny model's greedy text may be empty
    assert len(stream_events(server, route, hot | {"stop": ["no such text"]})) > 3  # a stop string turns off the flush interval
    assert {name: last[name] for name in ("finish_reason", "new_tokens", "seed", "model")} == {
        name: whole[name] for name in ("finish_reason", "new_tokens", "seed", "model")
    }


@pytest.mark.parametrize("route", GENERATE_ROUTES)
def test_an_error_before_the_first_event_has_its_own_status(server: Server, route: str) -> None:
    check_problem(post(server, route, {"start_word": "The", "length": 0, "stream": True}), 422, "length")
    check_problem(post(server, route, GENERATE_BODY | {"stream": "yes"}), 422, "stream")
    if route == "/generate_with_llm":
        check_problem(post(server, route, {"start_word": "¶" * 2000, "length": 9, "stream": True}), 422, "start_word")


def test_a_stream_that_times_out_says_so_in_its_last_event(hurried: HeldServer) -> None:
    """On a very slow machine, not even the first token comes in time: the response is then a 504."""
    prompts = ["The"] * 15
    with hurried.texts_held(), ThreadPoolExecutor(2) as pool:
        native = pool.submit(last_event, hurried, "/generate_with_rnn", {"start_word": "The", "length": 512})
        openai = pool.submit(last_event, hurried, "/v1/completions", {"model": "rnn", "prompt": prompts, "max_tokens": 1024})
        if event := native.result():
            assert event["finish_reason"] == "error"
            assert event["new_tokens"] <= 1
            assert event["problem"]["status"] == 504
            assert re.fullmatch("[0-9a-f]{16}", event["problem"]["request_id"])
        if event := openai.result():
            assert (event["error"]["type"], event["error"]["code"]) == ("server_error", "timeout")
            assert [choice["finish_reason"] for choice in event["choices"]] == ["error"] * 15
            assert event["usage"]["completion_tokens"] <= 15
    assert "Traceback" not in hurried.log.read_text()


def test_a_stream_stops_generating_when_its_client_leaves(strict: HeldServer) -> None:
    body = {"start_word": "The", "length": 512, "stream": True}
    with strict.texts_held(), ExitStack() as stack:
        for seed in range(8):  # each response begins with an event or, if the first tokens are parts of a character, with a ping
            stack.enter_context(open_stream(strict, "/generate_with_llm", body | {"seed": seed}))
        strict.wait_for("started", 8)
        assert strict.events.read_text().split() == ["started"] * 8
        stack.close()
        strict.wait_for("closed", 8)
    assert strict.events.read_text().split() == ["started"] * 8 + ["closed"] * 8


def test_streams_that_had_not_begun_survive_the_death_of_the_engine(trained: Trained, tmp_path: Path) -> None:
    with serve(trained, tmp_path / "log", TRIGEN_PING_SECONDS="0.1") as broken, ExitStack() as stack:
        engine = find_engine(broken)
        engine.suspend()  # so that no text can begin before the engine is killed
        streams = []
        for seed in range(8):
            response = stack.enter_context(open_stream(broken, "/generate_with_llm", GENERATE_BODY | {"seed": seed, "stream": True}))
            streams.append(response.iter_lines())
            assert next(streams[-1]).startswith(":")  # a ping: the stream has been opened, and waits for the engine
        engine.kill()
        for lines in streams:
            *_, last = (read_event(line) for line in lines if line.startswith("data: "))
            assert last["finish_reason"] in ("length", "stop")
        assert find_engine(broken).pid != engine.pid
        assert get(f"{broken.url}/livez").status_code == get(f"{broken.url}/readyz").status_code == 200
        assert post(broken, "/generate_with_llm", GENERATE_BODY).status_code == 200
        assert "Traceback" not in broken.log.read_text()


def test_a_silent_stream_sends_pings(strict: HeldServer) -> None:
    body = {"start_word": "The", "length": 2, "stream": True}
    with ExitStack() as held:
        held.enter_context(strict.texts_held(after=0))
        with open_stream(strict, "/generate_with_rnn", body) as response:
            lines = (line for line in response.iter_lines() if line)
            assert all(next(lines).startswith(":") for _ in range(3))  # comments, which clients skip
            held.close()
            *_, last = (read_event(line) for line in lines if not line.startswith(":"))
    assert last["finish_reason"] == "length"


def test_a_stopping_service_cancels_its_streams_and_says_so(trained: Trained, tmp_path: Path) -> None:
    native = ("/generate_with_rnn", {"start_word": "The", "length": 512, "stream": True})
    openai = ("/v1/completions", {"model": "rnn", "prompt": "The", "max_tokens": 1024, "stream": True})
    with serve_held(trained, tmp_path, "--timeout-graceful-shutdown", "1") as server, server.texts_held(), ExitStack() as stack:
        streams = []
        for route, body in [native, openai] * 4:
            response = stack.enter_context(open_stream(server, route, body))
            streams.append(read_events(response))
            next(streams[-1])
        os.kill(server.pid, signal.SIGTERM)
        last = [[*events][-1] for events in streams]
    reasons = [event["choices"][0]["finish_reason"] if "choices" in event else event["finish_reason"] for event in last]
    assert reasons == ["cancelled"] * 8
    assert [event["usage"]["completion_tokens"] if "usage" in event else event["new_tokens"] for event in last] == [1] * 8


def open_stream(server: Server, route: str, body: dict[str, Any]) -> Any:
    """Return a context in which the response can be read line by line."""
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.stream("POST", f"{server.url}{route}", json=body, headers=headers, timeout=HANG_SECONDS)


def last_event(server: Server, route: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the last event of a stream, or None if the response is a 504 instead."""
    with open_stream(server, route, body | {"stream": True}) as response:
        if response.status_code == 504:
            return None
        check_response(response)
        *_, last = read_events(response)
        return last


def read_events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream."""
    return (read_event(line) for line in response.iter_lines() if line.startswith("data: {"))


def find_engine(server: Server) -> psutil.Process:
    """Return the process that runs the LLM."""
    children = psutil.Process(server.pid).children(recursive=True)
    (engine,) = (process for process in children if "models.engines.openvino.process" in process.cmdline())
    return engine
