"""Errors in one shape: RFC 9457 problem details (`application/problem+json`), or OpenAI's error object for routes under `/v1`."""

from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError
from starlette.responses import JSONResponse
from starlette.types import Scope

from serving.edge.escaping import printable

REQUEST_SCOPE: ContextVar[Scope] = ContextVar("REQUEST_SCOPE")
"""The ASGI scope of the current request; its `state` holds the `request_id`. `serving/middleware.py` sets the variable and the id."""

RETRY_SECONDS = 1
"""The `Retry-After` of a busy service."""
OPENAI_PATH = "/v1"
MAX_FAULTS = 20
"""How many errors a response lists. A body of 90,000 unknown fields would otherwise get a response of 18 MB."""
MAX_COUNTED_FAULTS = 5_000
"""With more errors than this, a response only counts them: pydantic can only return all of them, at 1.5 µs each."""
LOC_PARTS, LOC_CHARACTERS, MESSAGE_CHARACTERS = 8, 64, 200
"""The limits of a listed error."""
DETAIL_CHARACTERS = 4_000


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
    errors: list[Fault] | None = Field(
        default=None, description=f"The invalid fields of the request body, at most {MAX_FAULTS}; `detail` counts the others."
    )


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
        self.status, self.detail = status, printable(detail, DETAIL_CHARACTERS)
        self.errors = None if errors is None else [_bounded(fault) for fault in errors[:MAX_FAULTS]]
        self.code = code or (errors[0].type if errors else None)
        self.headers = headers or {}

    @classmethod
    def timeout(cls, seconds: float) -> Self:
        """504: the request exceeded its time limit (`serving/deadline.py`)."""
        detail = f"The request took longer than {seconds:g} seconds. Request fewer tokens or a single answer, or retry later."
        return cls(504, detail, code="timeout")

    @classmethod
    def internal(cls) -> Self:
        """500: the service failed. The client learns nothing about the cause."""
        return cls(500, "The service failed. Its log has the cause, under this request_id.")

    @classmethod
    def crowded(cls) -> Self:
        """503: the service has too many connections."""
        detail = f"The service has too many connections. Retry in {RETRY_SECONDS} s."
        return cls(503, detail, headers={"retry-after": str(RETRY_SECONDS), "connection": "close"})

    @classmethod
    def stopping(cls) -> Self:
        """503: the service is shutting down."""
        return cls(503, "The service is shutting down. Send the request again.", headers={"connection": "close"})

    @classmethod
    def large_headers(cls, limit: int) -> Self:
        """431: the request's headers or trailers are too large."""
        return cls(431, f"The request's headers exceed the limit of {limit:,} bytes.")

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


def _bounded(fault: Fault) -> Fault:
    """Return `fault` with a bounded path and message: a single field name may be as long as the body."""
    loc = [part if isinstance(part, int) else printable(part, LOC_CHARACTERS) for part in fault.loc[:LOC_PARTS]]
    return Fault(loc=loc, msg=printable(fault.msg, MESSAGE_CHARACTERS), type=fault.type)


def invalid_body(error: ValidationError) -> Problem:
    """Return the problem for a body that fails validation: 422 with the first invalid fields, or 400 if the body is not JSON."""
    count = error.error_count()
    if count > MAX_COUNTED_FAULTS:
        message = f"{count:,} errors, which are too many to list"
        return Problem(422, f"body: {message}", [Fault(loc=[], msg=message, type="too_many_errors")])
    all_details = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_FAULTS]
    faults = [
        _bounded(Fault(loc=list(details["loc"]), msg=MESSAGES.get(details["type"], details["msg"]), type=details["type"]))
        for details in all_details
    ]
    if faults[0].type == "json_invalid":
        return Problem(400, f"The body is not valid JSON: {faults[0].msg.removeprefix('Invalid JSON: ')}", faults)
    messages = [f"{'.'.join(map(str, fault.loc)) or 'body'}: {fault.msg}" for fault in faults]
    if count > len(faults):
        messages.append(f"and {count - len(faults):,} more errors")
    return Problem(422, "; ".join(messages), faults)


def invalid_field(name: str, message: str, type: str) -> Problem:
    """Return the problem for one invalid field, with a message that does not come from pydantic (422)."""
    return Problem(422, f"{name}: {message}", [Fault(loc=[name], msg=message, type=type)])
