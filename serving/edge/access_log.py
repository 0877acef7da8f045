"""The access log: one line for each request, except the probes and `/metrics`. No client can break a line or forge one."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.edge.access import PROBES
from serving.edge.escaping import log_field, printable
from serving.settings import settings

UNLOGGED = (*PROBES, "/metrics")
BODY_CHARACTERS = 2_000
"""The longest body in a line, with TRIGEN_LOG_PROMPTS."""

logger = logging.getLogger("bentoml.access")


class AccessLogMiddleware:
    """Logs client, method, path, media types, lengths, status and time. The path is percent-encoded and without its query."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `ASGIApp`."""
        if scope["type"] != "http" or scope["path"] in UNLOGGED:
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status, complete = 0, False
        response_headers: dict[bytes, bytes] = {}
        body = bytearray()

        async def log_send(message: Message) -> None:
            nonlocal status, complete, response_headers
            if message["type"] == "http.response.start":
                status, response_headers = message["status"], dict(message.get("headers", ()))
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        async def log_receive() -> Message:
            message = await receive()
            if len(body) < 4 * BODY_CHARACTERS:
                body.extend(message.get("body", b""))
            return message

        try:
            await self.app(scope, log_receive if settings().log_prompts else receive, log_send)
        finally:
            request = _fields(dict(scope["headers"]))
            response = f"status={status},{_fields(response_headers)}{'' if complete else ',incomplete'}"
            prompt = f" body={printable(body.decode(errors='replace'), BODY_CHARACTERS)}" if settings().log_prompts else ""
            milliseconds = (time.perf_counter() - start) * 1000
            log(
                scope.get("client"),
                f"method={log_field(scope['method'])},path={log_field(scope['path'])},{request}",
                response,
                milliseconds,
                prompt,
            )


def log(client: tuple[str, int] | None, request: str, response: str, milliseconds: float, prompt: str = "") -> None:
    """Write one line. All fields are escaped already."""
    address = f"{client[0]}:{client[1]}" if client else "_"
    logger.info("%s (%s) (%s) %.3fms%s", address, request, response, milliseconds, prompt)


def _fields(headers: dict[bytes, bytes]) -> str:
    return f"type={log_field(headers.get(b'content-type', b''))},length={log_field(headers.get(b'content-length', b''))}"
