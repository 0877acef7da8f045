"""One real server with the settings of a deployment, from its first request to SIGTERM."""

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.client import GENERATE_BODY, check_error, check_problem, get
from tests.conftest import HANG_SECONDS, NEVER, HeldServer, Trained, serve_held, wait_until
from tests.serving.edge.raw import request, send

ORIGIN = "https://app.example"


@dataclass(frozen=True)
class Deployment:
    """The server, its key file and the URL of its metrics."""

    server: HeldServer
    keys: Path
    metrics: str


@pytest.fixture(scope="module")
def deployment(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("deployment")
    keys = directory / "keys"
    keys.write_text("first\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "TRIGEN_API_KEY_FILE": str(keys),
        "TRIGEN_METRICS_PORT": str(port),
        "TRIGEN_CORS_ORIGINS": ORIGIN,
        "TRIGEN_LOG_PROMPTS": "true",
        "TRIGEN_DRAIN_SECONDS": "3600",
        "TRIGEN_TIMEOUT_SECONDS": NEVER,
    }
    with serve_held(trained, directory, "--timeout-graceful-shutdown", "1", **settings) as running:
        yield Deployment(running, keys, f"http://127.0.0.1:{port}/metrics")


def generate(deployment: Deployment, key: str, **headers: str) -> httpx.Response:
    headers |= {"authorization": f"Bearer {key}"}
    return httpx.post(f"{deployment.server.url}/generate_text", json=GENERATE_BODY, headers=headers, timeout=HANG_SECONDS)


def test_a_new_key_in_the_file_works_without_a_restart(deployment: Deployment) -> None:
    assert generate(deployment, "first").status_code == 200
    check_problem(generate(deployment, "second"), 401)
    deployment.keys.with_suffix(".new").write_text("# rotated\nfirst\nsecond\n")
    deployment.keys.with_suffix(".new").rename(deployment.keys)
    wait_until(lambda: generate(deployment, "second").status_code == 200, "the second key is accepted")
    assert generate(deployment, "first").status_code == 200


def test_metrics_have_a_port_of_their_own_without_a_key(deployment: Deployment) -> None:
    check_problem(get(f"{deployment.server.url}/metrics"), 401)
    scraped = get(deployment.metrics, headers={"Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1"})
    assert scraped.headers["content-type"].startswith("text/plain")
    assert '\nvllm:num_requests_waiting{model_name="llm"} 0.0\n' in scraped.text  # and not vllm_…


def test_made_up_paths_and_methods_add_no_metric_series(deployment: Deployment) -> None:
    """On this server, because one that starts later deletes the metrics of those before it with the same BENTOML_HOME."""

    def series() -> set[str]:
        return {line.rpartition(" ")[0] for line in get(deployment.metrics).text.splitlines() if not line.startswith("#")}

    def visit(start: int) -> None:
        for number in range(start, start + 40):
            for path in (f"/nowhere/{number}", f"/v1/models/{number}"):
                get(f"{deployment.server.url}{path}", headers={"authorization": "Bearer first"})
            send(deployment.server, request("PROPFIND", b"/%d" % number))

    visit(0)
    before = series()
    assert any("request" in line for line in before)
    visit(40)
    assert series() == before


def test_only_the_origins_of_the_settings_may_call_from_a_browser(deployment: Deployment) -> None:
    assert generate(deployment, "first", origin=ORIGIN).headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in generate(deployment, "first", origin="https://other.example").headers
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-request-timeout"}
    url = f"{deployment.server.url}/generate_text"
    allowed = httpx.options(url, headers=preflight | {"origin": ORIGIN}, timeout=HANG_SECONDS)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert httpx.options(url, headers=preflight | {"origin": "https://other.example"}, timeout=HANG_SECONDS).status_code == 400


def test_prompts_are_logged_in_one_escaped_line_if_asked(deployment: Deployment) -> None:
    body = '{"start_word": "one\\n two\x7f",\n\r"length": 1}'
    headers = {"authorization": "Bearer first", "content-type": "application/json"}
    httpx.post(f"{deployment.server.url}/generate_text", content=body, headers=headers, timeout=HANG_SECONDS)
    logged = r' body={"start_word": "one\n two\x7f",\n\r"length": 1}'
    wait_until(lambda: logged in deployment.server.log.read_text(), "the body is in the log")


def test_sigterm_fails_readiness_first_and_ends_with_status_0(deployment: Deployment) -> None:
    server = deployment.server
    (worker,) = (process for process in psutil.Process(server.pid).children() if "_bentoml_impl.worker.service" in process.cmdline())
    with server.texts_held(after=0), ThreadPoolExecutor(2) as pool:
        native = pool.submit(generate, deployment, "first")
        body = {"model": "rnn", "prompt": "The"}
        headers = {"authorization": "Bearer first"}
        openai = pool.submit(httpx.post, f"{server.url}/v1/completions", json=body, headers=headers, timeout=HANG_SECONDS)
        server.wait_for("started", 2)
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: get(f"{server.url}/readyz").status_code == 503, "readiness fails")
        check_problem(get(f"{server.url}/readyz"), 503)
        assert get(f"{server.url}/livez").status_code == 200
        assert get(f"{server.url}/info", headers={"authorization": "Bearer first"}).status_code == 200  # it still accepts requests
        worker.send_signal(signal.SIGINT)  # ends the draining, which would take an hour
        check_problem(native.result(), 503)
        check_error(openai.result(), 503)
    wait_until(lambda: os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None, "the server exits")
    exited = os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)  # leaves the process for the fixture to reap
    assert exited
    assert (exited.si_code, exited.si_status) == (os.CLD_EXITED, 0)
    assert "Traceback" not in server.log.read_text()
