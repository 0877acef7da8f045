"""What a request's body may be, and how long it may take to arrive."""

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.edge.escaping import printable
from serving.problems import Problem
from serving.settings import settings

JSON_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
"""JSON is UTF-8 (RFC 8259, section 8.1), and ASCII is a part of it."""


def require_json(request: Request) -> None:
    """Raise `Problem` (415) unless the body is declared as plain JSON. A request without a Content-Type is taken as JSON.

    BentoML chooses its deserializer by the media type; pickle is one of them.
    """
    values = request.headers.getlist("content-type") or ["application/json"]
    media_type, *parameters = (part.strip().lower() for part in values[0].split(";"))
    if len(values) > 1 or media_type != "application/json":
        given = printable(", ".join(values), 100) or "empty"
        raise Problem(415, f"The body must be JSON: Content-Type must be application/json, not {given}.")
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in JSON_CHARSETS:
            raise Problem(415, f"The body must be encoded as UTF-8, not {printable(value, 100) or 'empty'}.")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Problem(415, f"The body must not be compressed, but Content-Encoding is {printable(encoding, 100)}.")


class BodyTimeoutMiddleware:
    """Raises `Problem` (408) where a body is read, when it is not complete TRIGEN_BODY_SECONDS after the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `ASGIApp`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seconds = settings().body_seconds
        deadline = asyncio.get_running_loop().time() + seconds
        complete = False

        async def receive_in_time() -> Message:
            nonlocal complete
            if complete:
                return await receive()  # waits for the client to disconnect
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                detail = f"The body was not complete after {seconds:g} seconds."
                raise Problem(408, detail, headers={"connection": "close"}) from None
            complete = not message.get("more_body", False)
            return message

        await self.app(scope, receive_in_time, send)
