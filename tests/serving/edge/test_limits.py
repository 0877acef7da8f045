"""Slow, large and crowded connections against the real server, which closes every one of them by itself."""

import contextlib
import json
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from serving.edge.protocol import OTHER_FILES, PROBE_CONNECTIONS
from tests.client import GENERATE_BODY, check_problem, get, post
from tests.conftest import HANG_SECONDS, HeldServer, Trained, serve_held, wait_until
from tests.serving.edge.raw import connect, request, send

LARGE_FILE = b"/static_content/swagger-ui-bundle.js"
JSON = (b"content-type", b"application/json")
OPEN_FILES = 256
"""The default of macOS. Many Linux systems have 1,024."""


@pytest.fixture(scope="module")
def limited(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldServer]:
    """A server with small limits, which is started with few open files allowed."""
    limits = {"TRIGEN_HEADER_SECONDS": "1", "TRIGEN_BODY_SECONDS": "1", "TRIGEN_MAX_CONNECTIONS": "4", "TRIGEN_MAX_HEADER_BYTES": "4096"}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))
    try:
        with serve_held(trained, tmp_path_factory.mktemp("limited"), **limits) as running:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            yield running
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_worker_may_open_as_many_connections_as_its_settings_allow(limited: HeldServer) -> None:
    (worker,) = (each for each in psutil.Process(limited.pid).children() if "_bentoml_impl.worker.service" in each.cmdline())
    assert worker.rlimit(psutil.RLIMIT_NOFILE)[0] >= 4 + PROBE_CONNECTIONS + OTHER_FILES > OPEN_FILES


@pytest.mark.parametrize("sent", [b"G", b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"\r\n"], ids=["a byte", "half", "a line break"])
def test_incomplete_headers_get_408(limited: HeldServer, sent: bytes) -> None:
    response = send(limited, sent)
    assert response.status == 408
    assert json.loads(response.body)["status"] == 408
    assert response.header("connection") == "close"


def test_a_connection_that_sends_nothing_is_closed(limited: HeldServer) -> None:
    assert send(limited).content == b""


def test_half_a_body_gets_408(limited: HeldServer) -> None:
    head = b"POST /generate_text HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    assert send(limited, head + b"Content-Length: 100\r\n\r\n{").status == 408
    assert send(limited, head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n").status == 408


def test_a_body_that_nobody_reads_does_not_hold_its_connection(limited: HeldServer) -> None:
    assert send(limited, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{").status == 404


def test_a_client_that_does_not_read_loses_its_connection(limited: HeldServer) -> None:
    with connect(limited) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        send_for_ever(connection, b"GET " + LARGE_FILE + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert "Traceback" not in limited.log.read_text()


def test_large_headers_get_431(limited: HeldServer) -> None:
    for sent in (
        b"GET /" + b"a" * 5_000,
        request("GET", b"/livez", b"", *[(b"a", b"b" * 100)] * 50),
        b"GET / HTTP/1.1\r\na: " + b"b" * 5_000,
    ):
        response = send(limited, sent)
        assert response.status == 431
        assert json.loads(response.body)["detail"] == "The request's headers exceed the limit of 4,096 bytes."


def test_trailers_are_limited_too(limited: HeldServer) -> None:
    head = b"POST /generate_text HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
    with connect(limited) as connection:
        connection.sendall(head)
        send_for_ever(connection, b"a: " + b"b" * 5_000 + b"\r\n")


def test_what_is_not_http_gets_400_in_the_format_of_its_path(limited: HeldServer) -> None:
    assert json.loads(send(limited, b"nonsense\r\n\r\n").body)["detail"] == "The request is not valid HTTP."
    response = send(limited, b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert response.status == 400
    assert json.loads(response.body)["error"]["message"] == "The request is not valid HTTP."


@pytest.mark.parametrize("header", [b"host: \x80\\", b"user-agent: \xff", b"traceparent: \x80\\", b"content-type: \xc3"])
def test_headers_that_are_not_utf_8_get_400(limited: HeldServer, header: bytes) -> None:
    assert send(limited, b"GET /v1/models HTTP/1.1\r\n" + header + b"\r\n\r\n").status == 400
    assert send(limited, b"GET /v1/models?\x80 HTTP/1.1\r\nhost: x\r\n\r\n").status == 400


def test_nonsense_after_a_request_does_not_cut_off_its_response(limited: HeldServer) -> None:
    response = send(limited, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
    assert response.status == 200
    assert json.loads(response.body)["object"] == "list"


def test_an_upgrade_is_answered_as_a_plain_request(limited: HeldServer) -> None:
    headers = [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13"), (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")]
    head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n" + b"".join(n + b": " + v + b"\r\n" for n, v in headers)
    assert send(limited, head + b"\r\n").status == 200


def test_more_connections_than_the_limit_get_503_but_the_probes_answer(limited: HeldServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        with limited.texts_held():
            running = [pool.submit(post, limited, "/generate_with_rnn", GENERATE_BODY) for _ in range(4)]
            limited.wait_for("started", 4)
            refused = httpx.post(f"{limited.url}/generate_text", json=GENERATE_BODY, timeout=HANG_SECONDS)
            check_problem(refused, 503)
            assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
            assert get(f"{limited.url}/livez").status_code == get(f"{limited.url}/readyz").status_code == 200
        assert [response.result().status_code for response in running] == [200] * 4
    wait_until(lambda: get(f"{limited.url}/info").status_code == 200, "the connections are closed")


def send_for_ever(connection: socket.socket, data: bytes) -> None:
    """Send until the service closes the connection."""
    with contextlib.suppress(ConnectionError):
        while True:
            connection.sendall(data)
