"""One shape for every error: RFC 9457 problem details, `application/problem+json`."""

from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

Fault = dict[str, Any]
"""What is wrong with one field: `loc` (the path to it), `msg` and `type`, as pydantic gives them."""


class Problem(Exception):
    """An error to answer a request with."""

    def __init__(self, status: int, detail: str, errors: list[Fault] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors

    def response(self) -> JSONResponse:
        """The answer."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors is not None:
            body["errors"] = self.errors
        return JSONResponse(body, self.status, media_type="application/problem+json")


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
