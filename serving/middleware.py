"""The middleware around every request: request id, security headers and a response to any uncaught exception."""

import asyncio
import logging
import secrets
from contextlib import nullcontext

from opentelemetry.trace import get_current_span
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.edge.access import PROBES
from serving.edge.drain import DRAIN
from serving.edge.escaping import log_field
from serving.edge.headers import SecurityHeaders
from serving.problems import REQUEST_SCOPE, Problem

logger = logging.getLogger("bentoml.trigen")


class ContractMiddleware:
    """Adds the `X-Request-ID` and security headers, and turns exceptions into responses.

    The request id is the span id, which BentoML prints in every log line of the request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._security_headers = SecurityHeaders()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `ASGIApp`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"{get_current_span().get_span_context().span_id or secrets.randbits(64):016x}"
        scope.setdefault("state", {})["request_id"] = request_id
        REQUEST_SCOPE.set(scope)
        response_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal response_started
            if message["type"] == "http.response.start":
                response_started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                self._security_headers.add(message, scope["path"])
            await send(message)

        is_probe = scope["path"] in PROBES
        if not is_probe and (refusal := _refusal(scope)):
            await refusal.response()(scope, receive, send_with_headers)
            return
        with nullcontext() if is_probe else DRAIN.request():
            try:
                await self.app(scope, receive, send_with_headers)
            except Problem as problem:
                await problem.response()(scope, receive, send_with_headers)
            except asyncio.CancelledError:
                # uvicorn cancels a request only at the end of the grace period.
                if not response_started:
                    await Problem.stopping().response()(scope, receive, send_with_headers)
            except Exception:
                if response_started:
                    raise
                logger.exception("%s failed", log_field(scope["path"]))
                await Problem.internal().response()(scope, receive, send_with_headers)


def _refusal(scope: Scope) -> Problem | None:
    """Return the problem if the worker takes no more requests, or none on this connection."""
    if scope["state"].get("crowded"):
        return Problem.crowded()
    return Problem.stopping() if DRAIN.refusing else None
