"""The HTTP application around the service: BentoML's own, with routes that are read, its OpenAPI document and every error in one shape."""

import asyncio
import logging
from pathlib import Path

import bentoml
from _bentoml_impl.server.app import ServiceAppFactory  # BentoML 1.4.39 has no public hook for errors
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from serving.middleware import ContractMiddleware
from serving.openapi import Document, document
from serving.problems import Problem
from serving.settings import settings

WATCH_SECONDS = 0.5
"""How often a request under way is looked at: whether its client is still there and its time not over."""

SWAGGER = Path(__file__).parent / "swagger.html"

logger = logging.getLogger("bentoml.trigen")


class TrigenAppFactory(ServiceAppFactory):
    """BentoML's application, except for what it answers when something is wrong."""

    def __call__(self) -> Starlette:
        """Build the application of one worker."""
        app: Starlette = super().__call__()
        app.add_route("/info", self.info, methods=["GET"])
        app.add_route("/v1/models", self.models, methods=["GET"])
        app.add_route("/v1/models/{model}", self.model, methods=["GET"])
        app.add_exception_handler(HTTPException, _framework_error)
        app.router.redirect_slashes = False  # what is not documented is not there
        return app

    @property
    def middlewares(self) -> list[Middleware]:
        """BentoML's, and within them the contract's. A stream is one span in a trace, not one more for each of its events, which took a
        quarter of their time.
        """
        middlewares: list[Middleware] = super().middlewares
        for middleware in middlewares:
            if isinstance(middleware.cls, type) and issubclass(middleware.cls, OpenTelemetryMiddleware):
                middleware.kwargs["exclude_spans"] = ["send"]
        return [*middlewares, Middleware(ContractMiddleware)]

    async def index_page(self, _: Request) -> Response:
        """Swagger UI, from BentoML's files alone: its own page asks another host who looks at it."""
        return FileResponse(SWAGGER)

    async def api_endpoint(self, name: str, request: Request) -> Response:
        """Run one API until it answers, its client leaves or its time is over; then it stops computing.

        A `Problem` is the client's to read, anything else the operator's: the log has its traceback, and the client gets
        a 500 that says nothing of it.
        """
        work = asyncio.ensure_future(super().api_endpoint(name, request))
        deadline = asyncio.get_running_loop().time() + settings().timeout_seconds
        try:
            while not (await asyncio.wait([work], timeout=WATCH_SECONDS))[0]:
                if asyncio.get_running_loop().time() > deadline:
                    raise Problem.timeout()
                if getattr(request.state, "body_was_read", False) and await request.is_disconnected():
                    raise Problem(400, "the client left before it was answered")
            response: Response = work.result()
        except Problem as problem:
            return problem.response()
        except Exception:
            logger.exception("%s failed", request.url.path)
            return Problem.internal().response()
        finally:
            work.cancel()
        return response

    async def info(self, _: Request) -> Response:
        """`GET /info`: see `service.Trigen.info`."""
        return _json(self._service_instance.info())

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`: see `service.Trigen.list_models`."""
        return _json(self._service_instance.list_models())

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`: see `service.Trigen.get_model`."""
        return _json(self._service_instance.get_model(request.path_params["model"]))


async def _framework_error(request: Request, error: Exception) -> Response:
    """Unknown routes and methods (404, 405), and whatever else Starlette raises."""
    assert isinstance(error, HTTPException)
    response = Problem(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()
    response.headers.update(error.headers or {})
    return response


def _json(model: BaseModel) -> Response:
    return JSONResponse(model.model_dump(mode="json"))


class TrigenService(bentoml.Service):
    """`service_class` of the service: BentoML asks it for the application, and for the OpenAPI document."""

    @property
    def openapi_spec(self) -> Document:
        """See `bentoml.Service`."""
        return document()

    def to_asgi(self, is_main: bool = True) -> Starlette:
        """See `bentoml.Service`."""
        self.inject_config()
        return TrigenAppFactory(self, is_main=is_main)()
