"""Clients that leave, are slow or stop in the middle: the others lose nothing, and nothing is left behind."""

import contextlib
import json
import re
import selectors
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.client import GENERATE_ROUTES, get
from tests.conftest import Server, Trained, serve, wait_until
from tests.faults.conftest import Record
from tests.faults.traffic import traffic
from tests.serving.edge.raw import connect

pytestmark = pytest.mark.faults
SLOW_CLIENTS = 200
SECONDS_BETWEEN_BYTES = 0.2
HEAD = b"POST /generate_text HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
FAULTS = {
    "slow-headers": (b"POST /generate_text HTTP/1.1\r\nX-Slow: ", b"a"),
    "slow-body": (HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "half-a-body": (HEAD + b"Content-Length: 100\r\n\r\n{", b""),
}
"""What a client sends first, and what it sends then, again and again."""


@pytest.fixture(scope="module")
def patient(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short limits for headers and bodies."""
    limits = {"TRIGEN_HEADER_SECONDS": "3", "TRIGEN_BODY_SECONDS": "3"}
    with serve(trained, tmp_path_factory.mktemp("patient") / "log", TRIGEN_REPRODUCIBLE="true", **limits) as running:
        yield running


def busy(server: Server) -> float:
    """The number of texts that are running or waiting."""
    values = re.findall(r"^vllm:num_requests_(?:running|waiting){.*} (\S+)$", get(f"{server.url}/metrics").text, re.MULTILINE)
    assert values
    return sum(map(float, values))


def test_clients_leave_their_streams(patient: Server, record: Record) -> None:
    with traffic(patient) as seen:
        streams = []
        for route in GENERATE_ROUTES * 10:
            body = json.dumps({"start_word": "The", "length": 512, "stream": True}).encode()
            stream = connect(patient)
            stream.sendall(
                f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )
            stream.sendall(body)
            streams.append(stream)
        for stream in streams:
            assert stream.recv(1).startswith(b"H")
        seen.mark_fault()
        for stream in streams:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
            stream.close()
        seen.wait_for_answers()
    assert seen.lost() == []
    wait_until(lambda: busy(patient) == 0, "no text is left")
    record(seen)


@pytest.mark.parametrize("fault", FAULTS)
def test_slow_clients_are_closed(patient: Server, record: Record, fault: str) -> None:
    first, then = FAULTS[fault]
    with traffic(patient) as seen:
        seen.mark_fault()
        slow = [connect(patient) for _ in range(SLOW_CLIENTS)]
        for connection in slow:
            connection.sendall(first)
        answers = trickle(slow, then)
        seen.wait_for_answers()
    assert {answer.split(b" ", 2)[1] for answer in answers} == {b"408"}
    assert seen.lost() == []
    record(seen)


def trickle(connections: list[socket.socket], data: bytes) -> list[bytes]:
    """Send `data` on all connections, again and again, until the server has closed each. Returns the beginnings of its answers."""
    answers = []
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(SECONDS_BETWEEN_BYTES):
                assert isinstance(key.fileobj, socket.socket)
                answers.append(key.fileobj.recv(100))
                selector.unregister(key.fileobj)
                key.fileobj.close()
            for key in selector.get_map().values():
                with contextlib.suppress(ConnectionError):
                    assert isinstance(key.fileobj, socket.socket)
                    key.fileobj.sendall(data)
            time.sleep(SECONDS_BETWEEN_BYTES)
    return answers
