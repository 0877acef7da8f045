"""One shape for every error: RFC 9457 problem details, `application/problem+json`."""

from http import HTTPStatus
from typing import Any, Self

from pydantic import ValidationError
from starlette.responses import JSONResponse

from serving.settings import settings

Fault = dict[str, Any]
"""What is wrong with one field: `loc` (the path to it), `msg` and `type`, as pydantic gives them."""


class Problem(Exception):
    """An error to answer a request with."""

    def __init__(self, status: int, detail: str, errors: list[Fault] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors

    @classmethod
    def timeout(cls) -> Self:
        """504: the time that a request may take is over."""
        return cls(504, f"not answered within {settings().timeout_seconds} s: ask for less, or when there is less to do")

    @classmethod
    def internal(cls) -> Self:
        """500: the client cannot help it, and reads nothing of the cause."""
        return cls(500, "the service failed to answer; its log says why")

    @property
    def body(self) -> dict[str, Any]:
        """The problem details."""
        body = {"type": "about:blank", "title": HTTPStatus(self.status).phrase, "status": self.status, "detail": self.detail}
        return body if self.errors is None else body | {"errors": self.errors}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body, self.status, media_type="application/problem+json")


def invalid_body(error: ValidationError) -> Problem:
    """422, naming each field that is wrong; 400 where the body is no JSON at all."""
    faults: list[Fault] = [
        {"loc": list(fault["loc"]), "msg": fault["msg"], "type": fault["type"]}
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    if faults[0]["type"] == "json_invalid":
        return Problem(400, f"the body is not valid JSON: {faults[0]['msg'].removeprefix('Invalid JSON: ')}", faults)
    return Problem(422, "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults), faults)


def invalid_field(name: str, message: str, type: str) -> Problem:
    """422 for a field whose value turned out wrong after the schema accepted it."""
    return Problem(422, f"{name}: {message}", [{"loc": [name], "msg": message, "type": type}])
