"""Limits of connections: how many, how large and how slow. uvicorn's own protocol waits for headers, bodies and readers for ever."""

import asyncio
import contextvars
import logging
import resource
import secrets
from typing import Any

import httptools
import uvicorn.protocols.http.auto
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.edge import access_log
from serving.edge.escaping import log_field
from serving.edge.headers import SecurityHeaders
from serving.problems import REQUEST_SCOPE, Problem
from serving.settings import settings

logger = logging.getLogger("bentoml.trigen")

PROBE_CONNECTIONS = 64
"""Connections beyond TRIGEN_MAX_CONNECTIONS on which the service reads a request, so that it can still answer the probes."""
OTHER_FILES = 256
"""Files that a worker opens besides its connections: those of the models and of BentoML, and pipes to the engines."""
RECHECK_SECONDS = 1.0
"""How soon a timer that found the service itself busy looks again."""

_security_headers = SecurityHeaders()


def install() -> None:
    """Let uvicorn use `LimitedProtocol` in this process. BentoML builds uvicorn's configuration itself and has no option for it.

    Also raise the limit of open files, 1,024 by default on most systems, if it is below that of connections. Otherwise a service with
    1,000 silent connections would answer nobody, not even the probes.
    """
    uvicorn.protocols.http.auto.AutoHTTPProtocol = LimitedProtocol
    needed = settings().max_connections + PROBE_CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if allowed < needed:
        logger.warning(
            "This process may open only %d files (ulimit -Hn), too few for TRIGEN_MAX_CONNECTIONS=%d: allow %d, or lower the setting",
            hard,
            settings().max_connections,
            needed,
        )
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    Headers that are not complete in time get 408, and ones that are too large 431; then the connection is closed. A body that stalls gets
    408 where it is read (`BodyTimeoutMiddleware`), or loses its connection if the response has already been sent, and so does a client
    that does not read its response.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ws_protocol_class = None  # there are no WebSocket routes, and their protocol has no limits
        self._limits = settings()
        self._receiving = ""
        """The part of a message that has not arrived completely: "headers", "body", or empty between two messages."""
        self._bytes = 0
        """The bytes received since the last progress: the end of the headers, a piece of the body, or the end of a message."""
        self._running: RequestResponseCycle | None = None
        """The request that is being answered; uvicorn's `cycle` is the last one received."""
        self._is_crowded = False
        self._is_refused = False
        self._refusal: Problem | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        excess = len(self.connections) - self._limits.max_connections
        self._is_crowded = excess > 0
        if excess > PROBE_CONNECTIONS:
            self._refuse(Problem.crowded())
        else:
            self._start_read_timer(self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._disconnect_running()  # uvicorn only tells the last request received, and the others would write to a closed transport
        super().connection_lost(exc)
        for timer in (self._read_timer, self._write_timer):
            if timer:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._is_refused or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if not self._read_timer:
            self._start_read_timer(self._limits.header_seconds)
        self._bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.cycle.keep_alive = False  # the parser takes what follows for another protocol
        except httptools.HttpParserError:
            self._refuse(self._refusal or Problem(400, "The request is not valid HTTP."))
        else:
            if self._bytes > self._limits.max_header_bytes:
                self._refuse(Problem.large_headers(self._limits.max_header_bytes))

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._receiving = "headers"
        self.scope["state"]["crowded"] = self._is_crowded

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools, which also calls this for the trailers of a body; they are dropped."""
        if self._receiving == "headers":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools. An exception here ends `feed_data`."""
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._limits.max_header_bytes:
            self._refusal = Problem.large_headers(self._limits.max_header_bytes)
            raise ValueError
        if not self.url.isascii() or not all(_is_utf8(value) for _, value in self.headers):
            self._refusal = Problem(400, "The request's target must be ASCII, and its headers UTF-8.")
            raise ValueError
        super().on_headers_complete()
        self._receiving, self._bytes = "body", 0
        self._start_read_timer(self._limits.body_seconds)

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        super().on_message_complete()
        self._receiving, self._bytes = "", 0
        if self.cycle.response_complete:  # the response did not wait for the body, so the next request may begin
            self._start_read_timer(self._limits.header_seconds)
        elif self._read_timer:
            self._read_timer.cancel()
            self._read_timer = None

    def on_response_complete(self) -> None:
        """See uvicorn."""
        super().on_response_complete()
        self._limit_closing()

    def shutdown(self) -> None:
        """See uvicorn."""
        super().shutdown()
        self._limit_closing()

    def timeout_keep_alive_handler(self) -> None:
        """See uvicorn."""
        super().timeout_keep_alive_handler()
        self._limit_closing()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        if self._write_timer and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None

    def _start_read_timer(self, seconds: float) -> None:
        if self._read_timer:
            self._read_timer.cancel()
        self._read_timer = self.loop.call_later(seconds, self._read_late)

    def _read_late(self) -> None:
        """End the connection, unless it is the service that does not read or has not answered yet."""
        self._read_timer = None
        if self._is_refused or self.transport.is_closing():
            return
        if self.flow.read_paused or self._is_responding:
            self._start_read_timer(RECHECK_SECONDS)
        elif self._receiving == "body":
            self._abort()
        elif self._receiving or self._bytes:
            seconds = self._limits.header_seconds
            self._refuse(Problem(408, f"The request's headers were not complete after {seconds:g} seconds."))
        else:
            self._close()

    @property
    def _is_responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, problem: Problem) -> None:
        """Read no more, and send `problem` as the last response, if the connection allows another one."""
        self._is_refused = True
        if self._is_responding and self._receiving != "body":
            self.cycle.keep_alive = False  # the request before the refused one is still being answered
            return
        if self._is_responding and not self.cycle.response_started and not self.pipeline:
            self.cycle.disconnected = True  # the refusal takes the place of its response
            self.cycle.message_event.set()
        elif self._receiving == "body":
            self._close()
            return
        self._write(problem)
        self._close()

    def _write(self, problem: Problem) -> None:
        request_id = f"{secrets.randbits(64):016x}"
        target = getattr(self, "url", b"")
        path = target.partition(b"?")[0].decode("latin-1")
        context = contextvars.copy_context()
        context.run(REQUEST_SCOPE.set, {"path": path, "state": {"request_id": request_id}})
        response = context.run(problem.response)
        start = {"headers": [*self.server_state.default_headers, *response.raw_headers, (b"x-request-id", request_id.encode())]}
        _security_headers.add(start, path)
        lines = [name + b": " + value + b"\r\n" for name, value in [*start["headers"], (b"connection", b"close")]]
        self.transport.write(b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", response.body]))
        access_log.log(self.client, f"path={log_field(path)}", f"status={response.status_code},id={request_id}", 0)

    def _close(self) -> None:
        self.transport.close()
        self._limit_closing()

    def _limit_closing(self) -> None:
        """A transport that closes sends its buffer first, which a client that does not read would prevent for ever."""
        if self.transport.is_closing():
            self._start_write_timer()

    def _start_write_timer(self) -> None:
        if not self._write_timer and self in self.connections:
            self._write_timer = self.loop.call_later(self._limits.body_seconds, self._abort)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _disconnect_running(self) -> None:
        if self._running and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _abort(self) -> None:
        self._disconnect_running()
        self.transport.abort()


def _is_utf8(value: bytes) -> bool:
    """Whether libraries can decode a header's value. OpenTelemetry's middleware, which is outside ours, fails if it cannot."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
