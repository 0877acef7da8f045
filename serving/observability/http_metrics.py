"""Prometheus metrics of HTTP requests, in place of BentoML's, which make a new series for each path that a client invents."""

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.observability.metrics import SECONDS, update_metrics

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

METRICS_PATH = "/metrics"
UNMATCHED = "unmatched"
"""The label `handler` of all paths that match no route, and of all methods that a route does not have."""


@dataclass(frozen=True)
class Collectors:
    """The metrics of all requests, named as by prometheus-fastapi-instrumentator, which vLLM uses."""

    requests: "Counter"
    seconds: "Histogram"
    in_progress: "Gauge"


@functools.cache
def collectors() -> Collectors:
    """Return the metrics of this process. See `serving.observability.metrics.collectors` for the late import."""
    from prometheus_client import Counter, Gauge, Histogram

    return Collectors(
        requests=Counter("http_requests", "Requests.", ["method", "handler", "status"]),
        seconds=Histogram(
            "http_request_duration_seconds", "Time from a request to the end of its response.", ["method", "handler"], buckets=SECONDS
        ),
        in_progress=Gauge("http_requests_in_progress", "Requests that are being answered.", multiprocess_mode="livesum"),
    )


class HTTPMetricsMiddleware:
    """Counts and times every request, by the template of its route."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._handlers: dict[tuple[str, str], str] = {}
        """The routes without parameters, by method and path."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `ASGIApp`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] == METRICS_PATH:
            update_metrics()
        metrics, started, status = collectors(), time.perf_counter(), 0

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with metrics.in_progress.track_inprogress():
                await self.app(scope, receive, send_and_note_status)
        finally:
            handler = self._handler(scope)
            method = scope["method"] if handler != UNMATCHED else "ANY"
            metrics.requests.labels(method, handler, str(status or 500)).inc()
            metrics.seconds.labels(method, handler).observe(time.perf_counter() - started)

    def _handler(self, scope: Scope) -> str:
        """Return the template of the request's route."""
        key = scope["method"], scope["path"]
        if key in self._handlers:
            return self._handlers[key]
        for route in scope["app"].routes:
            if route.matches(scope)[0] is Match.FULL:
                template = _template(route)
                if template == scope["path"]:  # so that the dictionary holds nothing that clients make up
                    self._handlers[key] = template
                return template
        return UNMATCHED


def _template(route: BaseRoute) -> str:
    return route.path if isinstance(route, Route | Mount) else UNMATCHED
