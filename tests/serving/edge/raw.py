"""Requests as raw bytes, which no HTTP client would send."""

import socket
from dataclasses import dataclass
from typing import Any

from tests.conftest import HANG_SECONDS, Server


@dataclass(frozen=True)
class RawResponse:
    """The bytes that came back before the service closed the connection."""

    content: bytes

    @property
    def status(self) -> int:
        return int(self.content.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        return self.content.partition(b"\r\n\r\n")[2]

    def header(self, name: str) -> str | None:
        for line in self.content.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name.encode():
                return value.strip().decode()
        return None


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=HANG_SECONDS)


def send(server: Server, *parts: bytes, end: bool = False) -> RawResponse:
    """Send the bytes and read until the service closes the connection; `end` closes our side after the last byte."""
    with connect(server) as connection:
        content = bytearray()
        try:
            for part in parts:
                connection.sendall(part)
            if end:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65_536):
                content += data
        except ConnectionError:
            pass  # the service may close the connection before it has read everything
        return RawResponse(bytes(content))


def request(method: str, path: bytes, body: bytes = b"", *headers: tuple[bytes, bytes]) -> bytes:
    """Return a request after which the service closes the connection."""
    fields: list[Any] = [(b"host", b"test"), (b"connection", b"close"), (b"content-length", str(len(body)).encode()), *headers]
    lines = [name + b": " + value for name, value in fields]
    return b"\r\n".join([method.encode() + b" " + path + b" HTTP/1.1", *lines, b"", body])
