"""The OpenAPI 3.1 document of the service: `/docs.json`, the Bento's `apis/openapi.yaml` and `docs/openapi.json` (`make openapi`).

BentoML's own is not valid OpenAPI, inlines every body and knows no error; this one is made from the same schemas that check the requests.
"""

import json
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import CoreSchema, core_schema

from serving import __version__
from serving.api.completion_schemas import DONE, Completion, CompletionChunk, CompletionRequest, ErrorResponse, Model, ModelList
from serving.api.info import Info
from serving.api.schemas import (
    AnswerRequest,
    AnswerResponse,
    GenerateEvent,
    GenerateRequest,
    GenerateResponse,
    GenerateWithLLMRequest,
    ProblemDetails,
)

DESCRIPTION = """\
A bigram model, an LSTM and a fine-tuned causal LM continue text; the last also answers questions.

Where the service has a key, send it: `Authorization: Bearer KEY`. Every answer has the header `X-Request-ID`. Errors are problem details
(RFC 9457); on `/v1`, which OpenAI's clients can use, OpenAI's error object. With `"stream": true` a text comes in Server-Sent Events; one
whose last event has no `finish_reason` was cut off.
"""

TAGS = {
    "generation": "A prompt is continued.",
    "questions": "A question is answered from a passage.",
    "openai": "OpenAI's completions API, for all three models.",
    "service": "What is served, and whether it works.",
}

STATUSES = {
    400: "The body is no JSON.",
    401: "The service has a key, and it was not sent.",
    404: "There is no such model.",
    413: "The body is larger than the service takes.",
    415: "The body is not declared to be JSON.",
    422: "A field is wrong: `errors` names each.",
    429: "As many texts are under way as may be.",
    500: "The service failed; its log says why.",
    503: "The model does not work any more.",
    504: "The request was not answered in time, and given up.",
}

HEADERS = {401: "WWW-Authenticate", 429: "Retry-After"}


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    id: str
    path: str
    tag: str
    summary: str
    errors: tuple[int, ...]
    answer: type[BaseModel] | None
    request: type[BaseModel] | None = None
    event: type[BaseModel] | None = None
    """The data of a stream's events, where the answer can be one."""
    parameter: str | None = None
    needs_key: bool = True


BODY = (400, 401, 413, 415, 422, 429, 500, 504)
OPERATIONS = (
    Operation(
        "generate_text",
        "/generate_text",
        "generation",
        "Continue a prompt with the bigram model",
        BODY,
        GenerateResponse,
        GenerateRequest,
        GenerateEvent,
    ),
    Operation(
        "generate_with_rnn",
        "/generate_with_rnn",
        "generation",
        "Continue a prompt with the LSTM",
        BODY,
        GenerateResponse,
        GenerateRequest,
        GenerateEvent,
    ),
    Operation(
        "generate_with_llm",
        "/generate_with_llm",
        "generation",
        "Continue a prompt with the fine-tuned LLM, or answer it, where it ends in a question mark",
        (*BODY, 503),
        GenerateResponse,
        GenerateWithLLMRequest,
        GenerateEvent,
    ),
    Operation(
        "answer_question",
        "/answer_question",
        "questions",
        "Answer a question from a passage with the fine-tuned LLM",
        (*BODY, 503),
        AnswerResponse,
        AnswerRequest,
    ),
    Operation(
        "create_completion",
        "/v1/completions",
        "openai",
        "Complete prompts with any of the models",
        (400, 401, 404, 413, 415, 429, 500, 503, 504),
        Completion,
        CompletionRequest,
        CompletionChunk,
    ),
    Operation("list_models", "/v1/models", "openai", "The models", (401, 500), ModelList),
    Operation("get_model", "/v1/models/{model}", "openai", "One of the models", (401, 404, 500), Model, parameter="model"),
    Operation(
        "get_info",
        "/info",
        "service",
        "The models, how they were made and what they reached, and the limits of a request",
        (401, 500),
        Info,
    ),
    Operation("check_liveness", "/livez", "service", "Whether the service should be started again", (503,), None, needs_key=False),
    Operation("check_readiness", "/readyz", "service", "Whether the service takes requests", (503,), None, needs_key=False),
)


class Document(dict[str, Any]):
    """The document, as BentoML wants it: it asks `/docs.json` for `asdict()` and dumps the thing itself as YAML into a Bento."""

    def asdict(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return dict(self)


yaml.add_representer(Document, yaml.representer.SafeRepresenter.represent_dict)


class _Schemas(GenerateJsonSchema):
    """Without the titles that pydantic makes of the fields' names: generators name classes after them."""

    def field_title_should_be_set(self, schema: CoreSchema) -> bool:  # noqa: ARG002
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A default of null says no more than that the field may be left out."""
        described = super().default_schema(schema)
        return described if described.get("default", ...) is not None else {key: described[key] for key in described if key != "default"}


def document() -> Document:
    """The document."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ProblemDetails, "serialization"), (ErrorResponse, "serialization")]
    for operation in OPERATIONS:
        models += [(operation.request, "validation")] if operation.request else []
        models += [(model, "serialization") for model in (operation.answer, operation.event) if model]
    _, definitions = models_json_schema(list(dict.fromkeys(models)), schema_generator=_Schemas, ref_template="#/components/schemas/{model}")
    _drop_pydantics_own(definitions)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})["post" if operation.request else "get"] = _operation(operation)
    built = {
        "openapi": "3.1.0",
        "info": {
            "title": "Trigen",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(definitions["$defs"].items())),
            "headers": {
                "X-Request-ID": _header(
                    "The request, as the service's log names it.", {"type": "string", "examples": ["b7ad6b7169203331"]}
                ),
                "Retry-After": _header("Seconds to wait before asking again.", {"type": "integer", "examples": [1]}),
                "WWW-Authenticate": _header("How to send the key.", {"type": "string", "examples": ["Bearer"]}),
            },
            "responses": {
                f"{name}{status}": _error(status, media_type, model)
                for name, media_type, model in (
                    ("Problem", "application/problem+json", "ProblemDetails"),
                    ("Error", "application/json", "ErrorResponse"),
                )
                for status in STATUSES
                if _is_used(name, status)
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "TRIGEN_API_KEY, where the service has one."}},
        },
        "security": [{}, {"key": []}],
    }
    return Document(json.loads(json.dumps(built)))  # no object twice: YAML would refer from one to the other


def _drop_pydantics_own(schema: Any) -> None:
    """Beside the bounds of a number that is read by a validator, pydantic tells them once more, in words that JSON Schema does not have."""
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _drop_pydantics_own(value)
    if isinstance(schema, dict) and schema.get("type") == "integer":
        for word in ("ge", "le", "gt", "lt"):
            schema.pop(word, None)


def _operation(operation: Operation) -> dict[str, Any]:
    errors = {str(status): {"$ref": f"#/components/responses/{_errors_of(operation)}{status}"} for status in sorted(operation.errors)}
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {"200": _answer(operation), **errors},
    }
    if not operation.needs_key:
        described["security"] = []
    if operation.parameter:
        schema = {"$ref": "#/components/schemas/ModelName"}
        described["parameters"] = [
            {"name": operation.parameter, "in": "path", "required": True, "description": "Its name.", "schema": schema}
        ]
    if operation.request:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": _reference(operation.request)}}}
    return described


def _answer(operation: Operation) -> dict[str, Any]:
    described = {"description": "Answered.", "headers": {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}}
    if operation.answer is None:
        return described | {"content": {"text/plain": {"schema": {"type": "string"}}}}
    content: dict[str, Any] = {"application/json": {"schema": _reference(operation.answer)}}
    if operation.event:
        data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json", "contentSchema": _reference(operation.event)}
        if operation.event is CompletionChunk:
            data = {"anyOf": [data, {"const": DONE}]}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        content["text/event-stream"] = {
            "schema": {"description": f"With `stream`: events, whose data are {operation.event.__name__}s.", **event}
        }
    return described | {"content": content}


def _error(status: int, media_type: str, model: str) -> dict[str, Any]:
    names = ["X-Request-ID", *([HEADERS[status]] if status in HEADERS else [])]
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{model}"}}}
    description = (
        "The body is no JSON, or a field is wrong: `param` names it." if (status, model) == (400, "ErrorResponse") else STATUSES[status]
    )
    return {"description": description, "headers": headers, "content": content}


def _header(description: str, schema: JsonSchemaValue) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": schema}


def _errors_of(operation: Operation) -> str:
    return "Error" if operation.tag == "openai" else "Problem"


def _is_used(name: str, status: int) -> bool:
    return any(status in operation.errors and _errors_of(operation) == name for operation in OPERATIONS)


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


if __name__ == "__main__":
    print(json.dumps(document(), indent=2, ensure_ascii=False))  # noqa: T201  # `make openapi`
