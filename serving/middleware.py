"""The middleware around every request: request id, API key and a response to any uncaught exception."""

import hmac
import logging
import secrets

from opentelemetry.trace import get_current_span
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.problems import REQUEST_SCOPE, Problem
from serving.settings import settings

logger = logging.getLogger("bentoml.trigen")

OPEN_PATHS = ("/", "/docs.json", "/schema.json", "/livez", "/readyz", "/healthz", "/metrics")
"""Paths that need no key, besides static files: documentation, probes and metrics."""


class ContractMiddleware:
    """Adds the `X-Request-ID` header, checks the API key, and turns exceptions into responses.

    The request id is the span id, which BentoML prints in every log line of the request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `ASGIApp`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"{get_current_span().get_span_context().span_id or secrets.randbits(64):016x}"
        scope.setdefault("state", {})["request_id"] = request_id
        REQUEST_SCOPE.set(scope)
        response_started = False

        async def send_with_request_id(message: Message) -> None:
            nonlocal response_started
            if message["type"] == "http.response.start":
                response_started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if not _is_authorized(Request(scope)):
                raise Problem.unauthorized()
            await self.app(scope, receive, send_with_request_id)
        except Problem as problem:
            await problem.response()(scope, receive, send_with_request_id)
        except Exception:
            if response_started:
                raise
            logger.exception("%s failed", scope["path"])
            await Problem.internal().response()(scope, receive, send_with_request_id)


def _is_authorized(request: Request) -> bool:
    key, path = settings().api_key, request.url.path
    if key is None or path in OPEN_PATHS or path.startswith("/static_content/"):
        return True
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(credentials.strip().encode(), key.get_secret_value().encode())
