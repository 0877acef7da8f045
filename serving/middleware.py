"""What surrounds every request: its id, the key that it must bring, and an answer whatever happens."""

import hmac
import logging
import secrets

from opentelemetry.trace import get_current_span
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.admission import ADMISSION
from serving.problems import REQUEST, Problem
from serving.settings import settings

logger = logging.getLogger("bentoml.trigen")

OPEN_PATHS = ("/", "/docs.json", "/schema.json", "/livez", "/readyz", "/healthz", "/metrics")
"""What needs no key, beside static files: the documentation, and what those ask who operate the service."""


class ContractMiddleware:
    """Names each request in the header `X-Request-ID`, asks for the key, if the settings have one, counts a request's texts as ended when
    it is answered, and answers what nobody else did.

    The id is that of the request's span, with which BentoML's log marks every line.
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
        REQUEST.set(scope)
        begun = False

        async def named(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if not _is_authorized(Request(scope)):
                raise Problem.unauthorized()
            await self.app(scope, receive, named)
        except Problem as problem:
            await problem.response()(scope, receive, named)
        except Exception:
            if begun:
                raise
            logger.exception("%s failed", scope["path"])
            await Problem.internal().response()(scope, receive, named)
        finally:
            ADMISSION.release(scope)


def _is_authorized(request: Request) -> bool:
    key, path = settings().api_key, request.url.path
    if key is None or path in OPEN_PATHS or path.startswith("/static_content/"):
        return True
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.get_secret_value().encode())
