"""Every error has one shape: RFC 9457 problem details, `application/problem+json`; on `/v1`, where OpenAI's clients ask, OpenAI's."""

from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, Self

from pydantic import ValidationError
from starlette.responses import JSONResponse
from starlette.types import Scope

from serving.settings import settings

Fault = dict[str, Any]
"""What is wrong with one field: `loc` (the path to it), `msg` and `type`, as pydantic gives them."""

REQUEST: ContextVar[Scope] = ContextVar("REQUEST")
"""The request that is being answered; its `state` has the `request_id`. `serving/middleware.py` sets both."""

RETRY_SECONDS = 1
"""What a client is told to wait before it asks a busy service again."""
OPENAI_PATH = "/v1"


class Problem(Exception):
    """An error to answer a request with."""

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
        self.code = code or (errors[0]["type"] if errors else None)
        self.headers = headers or {}

    @classmethod
    def timeout(cls) -> Self:
        """504: the time that a request may take is over."""
        return cls(504, f"not answered within {settings().timeout_seconds} s: ask for less, or when there is less to do", code="timeout")

    @classmethod
    def internal(cls) -> Self:
        """500: the client cannot help it, and reads nothing of the cause."""
        return cls(500, "the service failed to answer; its log says why")

    @classmethod
    def busy(cls, limit: int) -> Self:
        """429: as much is under way as may be."""
        detail = f"{limit} texts are being generated or wait to be, which is as many as may be: ask again later"
        return cls(429, detail, code="too_many_requests", headers={"retry-after": str(RETRY_SECONDS)})

    @classmethod
    def unauthorized(cls) -> Self:
        """401: no key, or a wrong one."""
        detail = "send the service's key: Authorization: Bearer KEY"
        return cls(401, detail, code="invalid_api_key", headers={"www-authenticate": "Bearer"})

    @property
    def details(self) -> dict[str, Any]:
        """https://www.rfc-editor.org/rfc/rfc9457; `errors` and `request_id` are extensions."""
        body = {"type": "about:blank", "title": HTTPStatus(self.status).phrase, "status": self.status, "detail": self.detail}
        body["request_id"] = REQUEST.get()["state"]["request_id"]
        return body if self.errors is None else body | {"errors": self.errors}

    @property
    def openai_error(self) -> dict[str, Any]:
        """The `error` of https://platform.openai.com/docs/guides/error-codes, and `request_id`."""
        return {
            "message": self.detail,
            "type": "server_error" if self.status >= 500 else "rate_limit_error" if self.status == 429 else "invalid_request_error",
            "param": str(self.errors[0]["loc"][0]) if self.errors and self.errors[0]["loc"] else None,
            "code": self.code,
            "request_id": REQUEST.get()["state"]["request_id"],
        }

    def response(self) -> JSONResponse:
        """The answer to `REQUEST`. OpenAI's API answers a wrong field with 400."""
        path = REQUEST.get()["path"]
        if path == OPENAI_PATH or path.startswith(f"{OPENAI_PATH}/"):
            return JSONResponse({"error": self.openai_error}, 400 if self.status == 422 else self.status, headers=self.headers)
        return JSONResponse(self.details, self.status, headers=self.headers, media_type="application/problem+json")


def invalid_body(error: ValidationError) -> Problem:
    """422, naming each field that is wrong; 400 where the body is no JSON at all."""
    faults: list[Fault] = [
        {"loc": list(fault["loc"]), "msg": _MESSAGES.get(fault["type"], fault["msg"]), "type": fault["type"]}
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    if faults[0]["type"] == "json_invalid":
        return Problem(400, f"the body is not valid JSON: {faults[0]['msg'].removeprefix('Invalid JSON: ')}", faults)
    return Problem(422, "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults), faults)


_MESSAGES = {
    "extra_forbidden": "this field is not known here and would have no effect: leave it out",
    "string_pattern_mismatch": "it must not be blank",
}


def invalid_field(name: str, message: str, type: str) -> Problem:
    """422 for a field whose value turned out wrong after the schema accepted it."""
    return Problem(422, f"{name}: {message}", [{"loc": [name], "msg": message, "type": type}])
