"""The deadline of a request: `TRIGEN_TIMEOUT_SECONDS`, or less if the client asks for it with the header `X-Request-Timeout`."""

import asyncio
import re
from typing import Any

from starlette.requests import Request

from serving.edge.escaping import printable
from serving.problems import REQUEST_SCOPE, Problem
from serving.settings import settings

HEADER = "X-Request-Timeout"
SECONDS = re.compile(r"([0-9]+(\.[0-9]+)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
"""A number as in JSON, which is what clients that are generated from the document send."""


def start_deadline(request: Request) -> None:
    """Begin the time of `request`. Raises `Problem` (400) unless the header is missing or a positive number of seconds."""
    seconds = float(settings().timeout_seconds)
    values = request.headers.getlist(HEADER)
    if values:
        value = values[0].strip()
        if len(values) > 1 or not SECONDS.fullmatch(value) or float(value) == 0:
            given = printable(", ".join(values), 100) or "empty"
            raise Problem(400, f"{HEADER} must be a positive number of seconds, such as 2.5, not {given}.", code="invalid_timeout")
        seconds = min(seconds, float(value))
    request.state.time_limit = seconds
    request.state.deadline = asyncio.get_running_loop().time() + seconds


def time_limit() -> float:
    """Return the seconds that the current request may take."""
    seconds: float = _state().get("time_limit", settings().timeout_seconds)
    return seconds


def deadline() -> float:
    """Return the time of the event loop's clock at which the current request must end."""
    time: float | None = _state().get("deadline")
    return asyncio.get_running_loop().time() + settings().timeout_seconds if time is None else time


def _state() -> dict[str, Any]:
    scope = REQUEST_SCOPE.get(None)
    state: dict[str, Any] = scope["state"] if scope else {}
    return state
