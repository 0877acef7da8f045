"""What `deploy/haproxy.cfg` repeats, and what it tells the client, with replicas that fail in a given way."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.serving.process import free_port
from tests.client import GENERATE_BODY, check_problem
from tests.conftest import HANG_SECONDS, NEVER, Trained, serve_held, wait_until
from tests.replicas.proxy import CONFIGURATION, REPLICAS, Proxy, haproxy, proxied

pytestmark = pytest.mark.replicas

EVENT = b"data: {}\n\n"
LARGEST = {"start_word": "é" * 20_000, "context": "é" * 20_000}
"""Each character is six bytes of JSON."""


class StubReplica(ThreadingHTTPServer):
    """A replica that does the same with each request: `closes` the connection without a response, answers with a status, or is `cut off`
    in the middle of a stream."""

    def __init__(self, behaviour: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.bodies: list[Any] = []


class _Handler(BaseHTTPRequestHandler):
    server: StubReplica
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if self.server.behaviour == "closes":
            self.close_connection = True
        elif self.server.behaviour == "is cut off":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
            self.close_connection = True
        else:
            self._answer(int(self.server.behaviour))

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


@contextmanager
def stubs(directory: Path, *behaviours: str) -> Iterator[tuple[Proxy, list[StubReplica]]]:
    """Run stub replicas behind haproxy, which takes them for ready."""
    with ExitStack() as stack:
        replicas = [stack.enter_context(StubReplica(behaviour)) for behaviour in behaviours]
        for replica in replicas:
            threading.Thread(target=replica.serve_forever, daemon=True).start()
            stack.callback(replica.shutdown)
        first, second = (replica.server_port for replica in replicas)
        yield stack.enter_context(proxied((first, second), directory / "haproxy")), replicas


def post(proxy: Proxy, body: Any) -> httpx.Response:
    """Send a request on a connection of its own."""
    return httpx.post(f"{proxy.url}/generate_text", json=body, timeout=HANG_SECONDS)


def test_haproxy_accepts_the_file_with_its_defaults() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRIGEN_", "PROXY_"))}
    done = subprocess.run([haproxy(), "-c", "-f", str(CONFIGURATION)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("body", [GENERATE_BODY, LARGEST], ids=["short", "largest"])
@pytest.mark.parametrize("behaviour", ["closes", "503"])
def test_a_request_that_was_not_answered_goes_to_the_other_replica(tmp_path: Path, behaviour: str, body: Any) -> None:
    with stubs(tmp_path, behaviour, "200") as (proxy, (failing, other)):
        statuses = [post(proxy, body).status_code for _ in range(4)]
        assert statuses == [200] * 4
        assert failing.bodies
        assert other.bodies == [body] * 4
        assert proxy.repeated() == len(failing.bodies)


@pytest.mark.parametrize("status", [429, 500, 504])
def test_an_answer_that_must_not_be_repeated_is_passed_on(tmp_path: Path, status: int) -> None:
    with stubs(tmp_path, str(status), str(status)) as (proxy, replicas):
        assert post(proxy, GENERATE_BODY).status_code == status
        assert sum(len(replica.bodies) for replica in replicas) == 1


def test_a_request_that_kills_its_replica_is_sent_three_times_at_most(tmp_path: Path) -> None:
    with stubs(tmp_path, "closes", "closes") as (proxy, replicas):
        check_problem(post(proxy, GENERATE_BODY), 502)
        assert sorted(len(replica.bodies) for replica in replicas) == [1, 2]


def test_a_stream_whose_replica_dies_is_no_complete_response(tmp_path: Path) -> None:
    with stubs(tmp_path, "is cut off", "is cut off") as (proxy, replicas):
        read: list[bytes] = []
        with httpx.stream("POST", f"{proxy.url}/generate_text", json=GENERATE_BODY, timeout=HANG_SECONDS) as response:
            pieces = response.iter_bytes()
            read.append(next(pieces))
            with pytest.raises(httpx.RemoteProtocolError):
                read.extend(pieces)
        assert b"".join(read) == EVENT
        assert sum(len(replica.bodies) for replica in replicas) == 1


def test_without_a_replica_clients_are_told_when_to_try_again(tmp_path: Path) -> None:
    with proxied((free_port(), free_port()), tmp_path / "haproxy") as proxy:
        wait_until(lambda: not any(proxy.is_up(name) for name in REPLICAS), "both replicas are down")
        response = post(proxy, GENERATE_BODY)
        check_problem(response, 503)
        assert int(response.headers["retry-after"]) > 0


def test_a_client_that_leaves_cancels_its_request(trained: Trained, tmp_path: Path) -> None:
    with serve_held(trained, tmp_path, TRIGEN_TIMEOUT_SECONDS=NEVER) as server:  # the time limit would also end the texts
        port = int(server.url.rpartition(":")[2])
        with proxied((port, port), tmp_path / "haproxy", f"{NEVER}s") as proxy, server.texts_held():
            for stream in (False, True):
                with httpx.Client(timeout=httpx.Timeout(HANG_SECONDS, read=1)) as client, pytest.raises(httpx.ReadTimeout):
                    client.post(f"{proxy.url}/generate_with_rnn", json=GENERATE_BODY | {"stream": stream})
                wait_until(server.all_closed, "the service stops generating")
            server.wait_for("started", 2)
