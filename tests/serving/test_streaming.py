"""Streams of the real service, to their end and cut off."""

import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.client import GENERATORS, SEED_BODY, check_problem, events, post
from tests.conftest import Server, Trained, serve


@pytest.mark.parametrize("route", GENERATORS)
def test_a_stream_is_the_text_in_pieces_and_its_last_event_says_how_it_ended(server: Server, route: str) -> None:
    body = SEED_BODY | {"seed": 7, "temperature": 0}
    whole = post(server, route, body).json()
    *pieces, last = events(server, route, body)
    assert whole["generated_text"] == "The" + "".join(event["text"] for event in [*pieces, last])
    assert all(set(piece) == {"text"} for piece in pieces)
    hot = SEED_BODY | {"temperature": 2, "top_p": 1, "seed": 7}  # greedy, a tiny model may write no character
    assert len(events(server, route, hot | {"stop": ["no such text"]})) > 3  # who looks for a stop string gets each token
    assert {name: last[name] for name in ("finish_reason", "new_tokens", "seed", "model")} == {
        name: whole[name] for name in ("finish_reason", "new_tokens", "seed", "model")
    }


@pytest.mark.parametrize("route", GENERATORS)
def test_what_is_wrong_with_a_stream_has_a_status_of_its_own(server: Server, route: str) -> None:
    check_problem(post(server, route, {"start_word": "The", "length": 0, "stream": True}), 422, "length")
    check_problem(post(server, route, SEED_BODY | {"stream": "yes"}), 422, "stream")
    if route == "/generate_with_llm":
        check_problem(post(server, route, {"start_word": "¶" * 2000, "length": 9, "stream": True}), 422, "start_word")


def test_a_stream_that_is_not_done_in_time_says_so(trained: Trained, tmp_path: Path) -> None:
    with serve(trained, tmp_path / "log", TRIGEN_TIMEOUT_SECONDS="1") as hurried, ThreadPoolExecutor(16) as pool:
        body = {"start_word": "The", "length": 512}
        streams = list(pool.map(lambda _: events(hurried, "/generate_with_rnn", body), range(16)))
        late = [stream[-1] for stream in streams if stream[-1]["finish_reason"] == "error"]
        assert late
        assert all(0 < last["new_tokens"] < 512 and last["problem"]["status"] == 504 for last in late)
        assert all(re.fullmatch("[0-9a-f]{16}", last["problem"]["request_id"]) for last in late)
        *_, last = events(hurried, "/v1/completions", {"model": "rnn", "prompt": ["The"] * 16, "max_tokens": 1024})
        assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "timeout")
        assert {choice["finish_reason"] for choice in last["choices"]} == {"error"}
        assert last["usage"]["completion_tokens"] > 0
        assert "Traceback" not in hurried.log.read_text()


def test_a_client_that_leaves_a_stream_ends_its_work(server: Server) -> None:
    bodies = ({"start_word": "The", "length": 512, "temperature": 2, "top_p": 1, "seed": seed} for seed in range(100))
    body = next(body for body in bodies if post(server, "/generate_with_llm", body).json()["new_tokens"] == 512)
    began = time.monotonic()
    assert len(events(server, "/generate_with_llm", body)) > 1
    whole = time.monotonic() - began
    began = time.monotonic()
    for _ in range(8):  # this server's LLM takes one request after the other: each would wait for those before it
        with httpx.stream("POST", f"{server.url}/generate_with_llm", json=body | {"stream": True}, timeout=60) as answer:
            next(answer.iter_lines())
    post(server, "/generate_with_llm", {"start_word": "The", "length": 1})
    assert time.monotonic() - began < 4 * whole


def test_a_dead_engine_is_told_to_clients_and_probes(trained: Trained, tmp_path: Path) -> None:
    begun = threading.Event()

    def follow(seed: int) -> Any:
        """The last event of a stream, or the problem that it is answered with."""
        body = {"start_word": "The", "length": 512, "temperature": 2, "top_p": 1, "seed": seed, "stream": True}
        with httpx.stream("POST", f"{broken.url}/generate_with_llm", json=body, timeout=60) as answer:
            if answer.status_code != 200:
                answer.read()
                return answer.json()
            for line in answer.iter_lines():
                if line:
                    begun.set()
                    last = json.loads(line.removeprefix("data: "))
            return last

    with serve(trained, tmp_path / "log") as broken, ThreadPoolExecutor(8) as pool:
        followed = [pool.submit(follow, seed) for seed in range(8)]
        assert begun.wait(60)
        kill_engine(broken)
        last = [each.result() for each in followed]
        cut = [event for event in last if event.get("finish_reason") == "error"]
        assert cut  # but for those that the model had ended
        assert all(event["problem"]["status"] == 503 for event in cut)
        assert all(event["finish_reason"] in ("stop", "length", "error") for event in last if "finish_reason" in event)
        check_problem(post(broken, "/generate_with_llm", SEED_BODY), 503)
        assert httpx.get(f"{broken.url}/livez").status_code == httpx.get(f"{broken.url}/readyz").status_code == 503
        assert post(broken, "/generate_text", SEED_BODY).status_code == 200
        assert "Traceback" not in broken.log.read_text()


def test_a_stream_that_waits_says_that_it_is_there(trained: Trained, tmp_path: Path) -> None:
    body = {"start_word": ". " * 2000, "length": 2, "stream": True}
    with serve(trained, tmp_path / "log", TRIGEN_PING_SECONDS="0.1") as server, ThreadPoolExecutor(4) as pool:

        def lines(_: int) -> list[str]:
            with httpx.stream("POST", f"{server.url}/generate_with_rnn", json=body, timeout=60) as answer:
                assert answer.status_code == 200
                return [line for line in answer.iter_lines() if line]

        for read in pool.map(lines, range(4)):
            assert read[0].startswith(":")  # a comment, which clients skip
            assert json.loads(read[-1].removeprefix("data: "))["finish_reason"] == "length"
            assert sum(line.startswith(":") for line in read) > 1


@pytest.mark.parametrize("route", ["/generate_with_rnn", "/v1/completions"])
def test_a_service_that_stops_says_so_in_its_streams(trained: Trained, tmp_path: Path, route: str) -> None:
    body = {"model": "rnn", "prompt": "The", "max_tokens": 1024} if route.startswith("/v1") else {"start_word": "The", "length": 512}
    begun = threading.Barrier(9)

    def follow(_: int) -> dict[str, Any]:
        with httpx.stream("POST", f"{server.url}{route}", json=body | {"stream": True}, timeout=60) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data: {"))
            last = next(lines)
            begun.wait(60)
            last = [last, *lines][-1]
            event: dict[str, Any] = json.loads(last.removeprefix("data: "))
            return event

    with serve(trained, tmp_path / "log", arguments=("--timeout-graceful-shutdown", "1")) as server, ThreadPoolExecutor(8) as pool:
        following = [pool.submit(follow, number) for number in range(8)]
        begun.wait(60)
        os.kill(server.pid, signal.SIGTERM)
        last = [each.result() for each in following]
    reasons = [event["choices"][0]["finish_reason"] if "choices" in event else event["finish_reason"] for event in last]
    assert "cancelled" in reasons
    assert set(reasons) <= {"cancelled", "length"}
    assert all(("usage" if "choices" in event else "new_tokens") in event for event in last)


def kill_engine(server: Server) -> None:
    """Kill the process in which the LLM runs."""
    mine = psutil.Process(server.pid).children(recursive=True)
    (engine,) = (process for process in mine if "models.engines.openvino_process" in process.cmdline())
    engine.kill()
