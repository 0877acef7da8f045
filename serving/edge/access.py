"""Who may call the service: API keys, cross-origin requests, and a warning when nothing protects it."""

import ipaddress
import logging
import os
import socket

import click
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.edge.keys import KeyRing
from serving.problems import Problem
from serving.settings import settings

logger = logging.getLogger("bentoml.trigen")

PROBES = ("/livez", "/readyz", "/healthz")
"""The paths that need no key and that the service answers even if it has too many connections."""


class KeyMiddleware:
    """Answers 401 to every request without a valid key, except the probes and the `public` paths: the web page's files, which hold no data.

    It compares `scope["path"]`, which no header can change. The router decides by the same value, so a path that only resembles a
    probe's ("//livez") needs a key.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, public: frozenset[str] = frozenset()) -> None:
        self.app, self.keys = app, keys
        self._open_paths = public.union(PROBES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `ASGIApp`."""
        if scope["type"] == "lifespan" or not self.keys.is_required or scope["path"] in self._open_paths or self._has_key(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await Problem.unauthorized().response()(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    def _has_key(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1:
            return False
        scheme, _, key = values[0].partition(b" ")
        return scheme.lower() == b"bearer" and self.keys.accepts(key.strip())


def cors() -> list[Middleware]:
    """Return the middleware that answers browsers of TRIGEN_CORS_ORIGINS; none by default, so that browsers refuse other origins."""
    origins = settings().cors_origins
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-timeout"],
            expose_headers=["x-request-id", "retry-after"],
            allow_credentials=False,
        )
    ]


def listening_address() -> str | None:
    """Return the IP address on which this worker listens, or None outside a worker of `bentoml serve`."""
    context = click.get_current_context(silent=True)  # BentoML's worker gets its socket as the option --fd
    fd = context.params.get("fd") if context else None
    if fd is None:
        return None
    with socket.socket(fileno=os.dup(fd)) as listener:
        address: str = listener.getsockname()[0]
        return address


def warn_if_open(address: str | None, keys: KeyRing) -> None:
    """Log a warning if anyone on the network may call the service."""
    if address and not keys.is_required and not ipaddress.ip_address(address).is_loopback:
        logger.warning("The service listens on %s without a key: anyone who reaches it may use it. Set TRIGEN_API_KEY.", address)
