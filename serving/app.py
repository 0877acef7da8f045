"""The HTTP application: BentoML's, with our `GET` routes, OpenAPI document, Swagger UI page and error format."""

import logging
import sys
from pathlib import Path

import bentoml
from _bentoml_impl.server.app import ServiceAppFactory  # BentoML 1.4.39 has no public hook for errors
from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from serving.cancellation import with_cancellation
from serving.middleware import ContractMiddleware
from serving.observability.http_metrics import HTTPMetricsMiddleware
from serving.observability.logs import configure_logs
from serving.openapi import Document, document
from serving.problems import Problem
from serving.settings import settings

SWAGGER_PAGE = Path(__file__).parent / "swagger.html"

SWITCH_SECONDS = 0.0005
"""How long the event loop may wait for Python's interpreter lock while another thread runs Python code; by default 5 ms."""

logger = logging.getLogger("bentoml.trigen")


class TrigenAppFactory(ServiceAppFactory):
    """Builds the application of one worker."""

    def __call__(self) -> Starlette:
        """Return BentoML's application with the `GET` routes and the error format of this service."""
        app: Starlette = super().__call__()
        app.add_route("/info", self.info, methods=["GET"])
        app.add_route("/v1/models", self.list_models, methods=["GET"])
        app.add_route("/v1/models/{model}", self.get_model, methods=["GET"])
        app.add_exception_handler(HTTPException, _http_exception_response)
        app.router.redirect_slashes = False  # a path with a trailing slash is not in the OpenAPI document: answer 404
        return app

    @property
    def middlewares(self) -> list[Middleware]:
        """BentoML's middlewares, with our metrics instead of theirs, and `ContractMiddleware` innermost."""
        middlewares: list[Middleware] = [
            Middleware(HTTPMetricsMiddleware) if each.cls is RunnerTrafficMetricsMiddleware else each for each in super().middlewares
        ]
        for middleware in middlewares:
            if isinstance(middleware.cls, type) and issubclass(middleware.cls, OpenTelemetryMiddleware):
                # A span for each event would take a quarter of a stream's time.
                middleware.kwargs["exclude_spans"] = ["send"]
        return [*middlewares, Middleware(ContractMiddleware)]

    async def index_page(self, _: Request) -> Response:
        """`GET /`: Swagger UI. BentoML's page loads scripts from a third party; this one uses BentoML's local copies."""
        return FileResponse(SWAGGER_PAGE)

    async def api_endpoint(self, name: str, request: Request) -> Response:
        """Call one API of the service.

        A `Problem` becomes the response. Any other exception goes to the log with its traceback, and the client gets a 500 without
        details.
        """
        handler = super().api_endpoint(name, request)
        try:
            response: Response = await with_cancellation(handler, request, settings().timeout_seconds)
        except Problem as problem:
            return problem.response()
        except Exception:
            logger.exception("%s failed", request.url.path)
            return Problem.internal().response()
        return response

    async def info(self, _: Request) -> Response:
        """`GET /info`: see `service.Trigen.info`."""
        return _json(self._service_instance.info())

    async def list_models(self, _: Request) -> Response:
        """`GET /v1/models`: see `service.Trigen.list_models`."""
        return _json(self._service_instance.list_models())

    async def get_model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`: see `service.Trigen.get_model`."""
        return _json(self._service_instance.get_model(request.path_params["model"]))


async def _http_exception_response(request: Request, error: Exception) -> Response:
    """Return the response to an unknown route (404), a wrong method (405) or any other `HTTPException`."""
    assert isinstance(error, HTTPException)
    response = Problem(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()
    response.headers.update(error.headers or {})
    return response


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
        sys.setswitchinterval(SWITCH_SECONDS)
        return TrigenAppFactory(self, is_main=is_main)()
