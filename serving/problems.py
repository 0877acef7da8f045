"""Errors in one shape: RFC 9457 problem details (`application/problem+json`), or OpenAI's error object for routes under `/v1`."""

from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError
from starlette.responses import JSONResponse
from starlette.types import Scope

from serving.settings import settings

REQUEST_SCOPE: ContextVar[Scope] = ContextVar("REQUEST_SCOPE")
"""The ASGI scope of the current request; its `state` holds the `request_id`. `serving/middleware.py` sets the variable and the id."""

RETRY_SECONDS = 1
"""The `Retry-After` of a busy service."""
OPENAI_PATH = "/v1"


class Fault(BaseModel):
    """An error in one field."""

    loc: list[str | int] = Field(description="The path to the field.", examples=[["length"]])
    msg: str = Field(description="The error message.", examples=["Input should be greater than or equal to 1"])
    type: str = Field(description="The error code.", examples=["greater_than_equal"])


class ProblemDetails(BaseModel):
    """An error response in the format of RFC 9457 (https://www.rfc-editor.org/rfc/rfc9457)."""

    type: str = Field(
        description="A URI that identifies the problem type; `about:blank`: no type beyond the status code.", examples=["about:blank"]
    )
    title: str = Field(description="The status phrase.", examples=["Unprocessable Entity"])
    status: int = Field(description="The HTTP status code.", examples=[422])
    detail: str = Field(
        description="What went wrong and, where possible, how to fix it.", examples=["length: Input should be greater than or equal to 1"]
    )
    request_id: str = Field(description="The request's id, as in the `X-Request-ID` header and in the service's log.")
    errors: list[Fault] | None = Field(default=None, description="Every invalid field of the request body.")


class Problem(Exception):
    """An error that becomes the response to the current request.

    `code` is the `code` of OpenAI's error object; by default, the type of the first of the `errors`.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: list[Fault] | None = None,
        *,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors
        self.code = code or (errors[0].type if errors else None)
        self.headers = headers or {}

    @classmethod
    def timeout(cls) -> Self:
        """504: the request exceeded `TRIGEN_TIMEOUT_SECONDS`."""
        detail = f"The request took longer than {settings().timeout_seconds} seconds. Request fewer tokens or retry later."
        return cls(504, detail, code="timeout")

    @classmethod
    def internal(cls) -> Self:
        """500: the service failed. The client learns nothing about the cause."""
        return cls(500, "The service failed. Its log has the cause, under this request_id.")

    @classmethod
    def unauthorized(cls) -> Self:
        """401: the API key is missing or wrong."""
        detail = "Send the service's API key in the header `Authorization: Bearer KEY`."
        return cls(401, detail, code="invalid_api_key", headers={"www-authenticate": "Bearer"})

    @property
    def details(self) -> ProblemDetails:
        """The body in the format of RFC 9457; `errors` and `request_id` are extensions."""
        details = ProblemDetails(
            type="about:blank",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            request_id=REQUEST_SCOPE.get()["state"]["request_id"],
        )
        if self.errors is not None:  # left unset otherwise, so that the JSON has no `"errors": null`
            details.errors = self.errors
        return details

    @property
    def openai_error(self) -> dict[str, Any]:
        """The error object of https://platform.openai.com/docs/guides/error-codes, with the `request_id`."""
        return {
            "message": self.detail,
            "type": "server_error" if self.status >= 500 else "rate_limit_error" if self.status == 429 else "invalid_request_error",
            "param": str(self.errors[0].loc[0]) if self.errors and self.errors[0].loc else None,
            "code": self.code,
            "request_id": REQUEST_SCOPE.get()["state"]["request_id"],
        }

    def response(self) -> JSONResponse:
        """Return the response to the current request. OpenAI's API reports an invalid field as 400, not 422."""
        path = REQUEST_SCOPE.get()["path"]
        if path == OPENAI_PATH or path.startswith(f"{OPENAI_PATH}/"):
            return JSONResponse({"error": self.openai_error}, 400 if self.status == 422 else self.status, headers=self.headers)
        body = self.details.model_dump(exclude_unset=True)
        return JSONResponse(body, self.status, headers=self.headers, media_type="application/problem+json")


MESSAGES = {
    "extra_forbidden": "Unknown field; remove it",
    "string_pattern_mismatch": "Input should not be blank",
}
"""Replacements for pydantic's messages, by error type."""


def invalid_body(error: ValidationError) -> Problem:
    """Return the problem for a body that fails validation: 422 with every invalid field, or 400 if the body is not JSON."""
    faults = [
        Fault(loc=list(details["loc"]), msg=MESSAGES.get(details["type"], details["msg"]), type=details["type"])
        for details in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    if faults[0].type == "json_invalid":
        return Problem(400, f"The body is not valid JSON: {faults[0].msg.removeprefix('Invalid JSON: ')}", faults)
    return Problem(422, "; ".join(f"{'.'.join(map(str, fault.loc)) or 'body'}: {fault.msg}" for fault in faults), faults)


def invalid_field(name: str, message: str, type: str) -> Problem:
    """Return the problem for one invalid field, with a message that does not come from pydantic (422)."""
    return Problem(422, f"{name}: {message}", [Fault(loc=[name], msg=message, type=type)])
