"""The HTTP application: BentoML's, with our `GET` routes, web page, OpenAPI document, Swagger UI and error format."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

import bentoml
from _bentoml_impl.server.app import ServiceAppFactory  # BentoML 1.4.39 has no public hook for errors
from bentoml._internal.context import server_context
from bentoml._internal.server.http.access import AccessLogMiddleware as BentoMLAccessLogMiddleware
from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from models.engines.processors import confine
from serving.api.page import PAGE_PATH, Page
from serving.cancellation import with_cancellation
from serving.deadline import start_deadline, time_limit
from serving.edge import protocol
from serving.edge.access import KeyMiddleware, cors, listening_address, warn_if_open
from serving.edge.access_log import AccessLogMiddleware
from serving.edge.body import BodyTimeoutMiddleware, require_json
from serving.edge.drain import DRAIN
from serving.edge.escaping import escape_log_lines, printable
from serving.edge.headers import SWAGGER_PAGE, SWAGGER_PATH
from serving.edge.keys import KeyRing
from serving.edge.metrics_port import metrics_port
from serving.middleware import ContractMiddleware
from serving.observability.http_metrics import HTTPMetricsMiddleware
from serving.observability.logs import configure_logs
from serving.observability.registry import configure_metrics, worker_count
from serving.observability.tracing import TracingMiddleware
from serving.openapi import Document, document
from serving.problems import Problem
from serving.settings import settings

SWITCH_SECONDS = 0.0005
"""How long the event loop may wait for Python's interpreter lock while another thread runs Python code; by default 5 ms."""

logger = logging.getLogger("bentoml.trigen")


class TrigenAppFactory(ServiceAppFactory):
    """Builds the application of one worker."""

    def __init__(self, service: "TrigenService", *, is_main: bool) -> None:
        super().__init__(service, is_main=is_main)
        # BentoML's timeout keeps a timer and the context of each request until the timeout is over, even if it was answered at once.
        self.timeout = None
        self.enable_access_control = False  # CORS: see `cors`
        self.keys = KeyRing(settings().api_key, settings().api_key_file)
        self.page = Page() if settings().ui else None

    def __call__(self) -> Starlette:
        """Return BentoML's application with the `GET` routes and the error format of this service."""
        app: Starlette = super().__call__()
        app.add_route("/info", self.info, methods=["GET"])
        app.add_route("/v1/models", self.list_models, methods=["GET"])
        app.add_route("/v1/models/{model}", self.get_model, methods=["GET"])
        app.add_route(SWAGGER_PATH, self.swagger_page, methods=["GET"])
        if self.page:
            app.add_route(PAGE_PATH, self.page.index, methods=["GET"])
            app.add_route(f"{PAGE_PATH}/{{file:path}}", self.page.file, methods=["GET"])
        app.add_exception_handler(HTTPException, _http_exception_response)
        app.router.redirect_slashes = False  # a path with a trailing slash is not in the OpenAPI document: answer 404
        return app

    @property
    def middlewares(self) -> list[Middleware]:
        """BentoML's middlewares with our metrics, tracing and access log instead of theirs, and ours innermost.

        A preflight request has no key.
        """
        middlewares = [_instead_of(each) for each in super().middlewares if each.cls is not BentoMLAccessLogMiddleware]
        ours = [Middleware(AccessLogMiddleware), Middleware(ContractMiddleware), *cors()]
        public = self.page.paths if self.page else frozenset[str]()
        return [*middlewares, *ours, Middleware(KeyMiddleware, keys=self.keys, public=public), Middleware(BodyTimeoutMiddleware)]

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Run the worker: SIGTERM drains it, and the service ends after its last response."""
        is_first = server_context.worker_index in (None, 1)
        if is_first:
            warn_if_open(listening_address(), self.keys)
        async with super().lifespan(app):
            with metrics_port(settings().metrics_port if is_first else None):
                with DRAIN.on_sigterm(settings().drain_seconds):
                    yield
                await DRAIN.wait_for_requests()

    async def create_instance(self, app: Starlette) -> None:
        """Create the service, and bind its APIs once: BentoML would inspect a method's signature for each request."""
        await super().create_instance(app)
        for name in self.service.apis:
            setattr(self._service_instance, name, getattr(self._service_instance, name))

    async def index_page(self, _: Request) -> Response:
        """`GET /`: leads to the web page or, without one, to Swagger UI. The address is relative: a proxy may add a prefix."""
        return RedirectResponse((PAGE_PATH if self.page else SWAGGER_PATH).removeprefix("/"))

    async def swagger_page(self, _: Request) -> Response:
        """`GET /docs`: Swagger UI. BentoML's page loads scripts from a third party; this one uses BentoML's local copies."""
        return FileResponse(SWAGGER_PAGE)

    async def api_endpoint(self, name: str, request: Request) -> Response:
        """Call one API of the service.

        A `Problem` becomes the response. Any other exception goes to the log with its traceback, and the client gets a 500 without
        details.
        """
        try:
            require_json(request)
            start_deadline(request)
            response: Response = await with_cancellation(super().api_endpoint(name, request), request, time_limit())
        except Problem as problem:
            return problem.response()
        except Exception:
            logger.exception("%s failed", name)
            return Problem.internal().response()
        return response

    async def livez(self, _: Request) -> Response:
        """`GET /livez`: whether the service works, or needs a restart."""
        if not await self._service_instance.__is_alive__():
            raise Problem(503, "A model's engine has stopped: restart the service.")
        return PlainTextResponse("\n")

    async def readyz(self, _: Request) -> Response:
        """`GET /readyz`: whether the service should get requests now."""
        if DRAIN.draining:
            raise Problem(503, "The service is shutting down.")
        if not await self._service_instance.__is_ready__():
            raise Problem(503, "A model's engine is not ready.")
        return PlainTextResponse("\n")

    async def openapi_spec_view(self, _: Request) -> Response:
        """`GET /docs.json`: the OpenAPI document."""
        return Response(self._document, media_type="application/json")

    async def schema_view(self, _: Request) -> Response:
        """`GET /schema.json`: the description that BentoML's own client reads."""
        return Response(self._schema, media_type="application/json")

    @cached_property
    def _document(self) -> bytes:
        return _encode(document())

    @cached_property
    def _schema(self) -> bytes:
        return _encode(self.service.schema())

    async def info(self, _: Request) -> Response:
        """`GET /info`: see `service.Trigen.info`."""
        return _json(self._service_instance.info())

    async def list_models(self, _: Request) -> Response:
        """`GET /v1/models`: see `service.Trigen.list_models`."""
        return _json(self._service_instance.list_models())

    async def get_model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`: see `service.Trigen.get_model`."""
        return _json(self._service_instance.get_model(request.path_params["model"]))


def _instead_of(middleware: Middleware) -> Middleware:
    """Return our middleware for one of BentoML's if there is one, else BentoML's."""
    cls: Any = middleware.cls
    if cls is RunnerTrafficMetricsMiddleware:
        return Middleware(HTTPMetricsMiddleware)
    if cls is OpenTelemetryMiddleware:
        return Middleware(TracingMiddleware, **middleware.kwargs)
    return middleware


async def _http_exception_response(request: Request, error: Exception) -> Response:
    """Return the response to an unknown route (404), a wrong method (405) or any other `HTTPException`."""
    assert isinstance(error, HTTPException)
    response = Problem(error.status_code, f"{request.method} {printable(request.scope['path'], 200)}: {error.detail}").response()
    response.headers.update(error.headers or {})
    return response


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _json(model: BaseModel) -> Response:
    return JSONResponse(model.model_dump(mode="json"))


class TrigenService(bentoml.Service):
    """The `service_class` of `service.Trigen`: supplies BentoML with our application and OpenAPI document."""

    @property
    def openapi_spec(self) -> Document:
        """See `bentoml.Service`."""
        return document()

    def to_asgi(self, is_main: bool = True) -> Starlette:
        """See `bentoml.Service`."""
        self.inject_config()
        configure_logs()
        configure_metrics(self.name)
        confine(server_context.worker_index or 1, worker_count(self.name))
        sys.setswitchinterval(SWITCH_SECONDS)
        escape_log_lines()
        protocol.install()
        factory = TrigenAppFactory(self, is_main=is_main)
        os.environ.pop("TRIGEN_API_KEY", None)  # the settings hold its hash, and the engine's process must not inherit it
        return factory()
