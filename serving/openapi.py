"""The OpenAPI 3.1 document of the service: `/docs.json`, the Bento's `apis/openapi.yaml` and `docs/openapi.json` (`make openapi`).

BentoML's own document is not valid OpenAPI, repeats every schema inline and declares no errors. This one is generated from the pydantic
models that validate the requests.
"""

import json
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import CoreSchema, core_schema

from serving import __version__
from serving.api.completion_schemas import DONE, CompletionChunk, ErrorResponse
from serving.operations import OPERATIONS, STATUSES, TAGS, Operation
from serving.problems import ProblemDetails

DESCRIPTION = """\
A bigram model, an LSTM and a fine-tuned LLM continue text; the LLM also answers questions.

If the service has an API key, send it as `Authorization: Bearer KEY`. Every response has an `X-Request-ID` header. The routes under `/v1`
work with OpenAI's clients and report errors as OpenAI's error object; every other route reports them as problem details (RFC 9457). With
`"stream": true` the text is sent as Server-Sent Events; a stream that ends without a `finish_reason` (under `/v1`, without `[DONE]`) was
cut off.
"""

HEADERS = {401: "WWW-Authenticate", 429: "Retry-After"}
"""Headers of error responses besides `X-Request-ID`."""

TIMEOUT_PARAMETER = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "Seconds until the request is cancelled and fails with 504. More than the service's own limit has no effect.",
    "schema": {"type": "number", "exclusiveMinimum": 0, "examples": [2.5]},
}


class Document(dict[str, Any]):
    """A dictionary with the interface that BentoML needs: `asdict()` for `/docs.json`, and a YAML representation for the Bento."""

    def asdict(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return dict(self)


yaml.add_representer(Document, yaml.representer.SafeRepresenter.represent_dict)


class _SchemaGenerator(GenerateJsonSchema):
    """Omits the titles that pydantic derives from field names, because client generators would name classes after them."""

    def field_title_should_be_set(self, schema: CoreSchema) -> bool:  # noqa: ARG002
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Omit a default of null, which only means that the field is optional."""
        json_schema = super().default_schema(schema)
        if json_schema.get("default", ...) is None:
            del json_schema["default"]
        return json_schema


def document() -> Document:
    """Return the OpenAPI document."""
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
            "schemas": _schemas(),
            "headers": {
                "X-Request-ID": _header("The request's id, as in the service's log.", {"type": "string", "examples": ["b7ad6b7169203331"]}),
                "Retry-After": _header("Seconds to wait before a retry.", {"type": "integer", "examples": [1]}),
                "WWW-Authenticate": _header("The authentication scheme.", {"type": "string", "examples": ["Bearer"]}),
            },
            "parameters": {"X-Request-Timeout": TIMEOUT_PARAMETER},
            "responses": _error_responses(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "TRIGEN_API_KEY, if the service has one."}},
        },
        "security": [{}, {"key": []}],
    }
    return Document(json.loads(json.dumps(built)))  # copies shared objects, which YAML would write as anchors and aliases


def _schemas() -> dict[str, Any]:
    """The request, response and event bodies, by name."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ProblemDetails, "serialization"), (ErrorResponse, "serialization")]
    for operation in OPERATIONS:
        models += [(operation.request, "validation")] if operation.request else []
        models += [(model, "serialization") for model in (operation.response, operation.event) if model]
    unique = list(dict.fromkeys(models))
    _, definitions = models_json_schema(unique, schema_generator=_SchemaGenerator, ref_template="#/components/schemas/{model}")
    _remove_pydantic_bounds(definitions)
    return dict(sorted(definitions["$defs"].items()))


def _remove_pydantic_bounds(schema: Any) -> None:
    """Remove `ge`, `le`, `gt` and `lt`, which are not JSON Schema: pydantic adds them beside `minimum` etc. if a field has a validator."""
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _remove_pydantic_bounds(value)
    if isinstance(schema, dict) and schema.get("type") == "integer":
        for keyword in ("ge", "le", "gt", "lt"):
            schema.pop(keyword, None)


def _operation(operation: Operation) -> dict[str, Any]:
    errors = {str(status): {"$ref": f"#/components/responses/{_error_prefix(operation)}{status}"} for status in sorted(operation.errors)}
    fields: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {"200": _success_response(operation), **errors},
    }
    if not operation.needs_key:
        fields["security"] = []
    if operation.parameter:
        schema = {"$ref": "#/components/schemas/ModelName"}
        fields["parameters"] = [
            {"name": operation.parameter, "in": "path", "required": True, "description": "The model's name.", "schema": schema}
        ]
    if operation.request:
        fields.setdefault("parameters", []).append({"$ref": "#/components/parameters/X-Request-Timeout"})
        fields["requestBody"] = {"required": True, "content": {"application/json": {"schema": _reference(operation.request)}}}
    return fields


def _success_response(operation: Operation) -> dict[str, Any]:
    response = {"description": "Success.", "headers": {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}}
    if operation.response is None:
        return response | {"content": {"text/plain": {"schema": {"type": "string"}}}}
    content: dict[str, Any] = {"application/json": {"schema": _reference(operation.response)}}
    if operation.event:
        data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json", "contentSchema": _reference(operation.event)}
        if operation.event is CompletionChunk:
            data = {"anyOf": [data, {"const": DONE}]}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        description = f"With `stream`: events, each with a {operation.event.__name__} as its `data`."
        content["text/event-stream"] = {"schema": {"description": description, **event}}
    return response | {"content": content}


def _error_prefix(operation: Operation) -> str:
    return "Error" if operation.tag == "openai" else "Problem"


def _error_responses() -> dict[str, Any]:
    used = {(_error_prefix(operation), status) for operation in OPERATIONS for status in operation.errors}
    formats = (("Problem", "application/problem+json", ProblemDetails), ("Error", "application/json", ErrorResponse))
    return {
        f"{prefix}{status}": _error_response(status, media_type, model)
        for prefix, media_type, model in formats
        for status in STATUSES
        if (prefix, status) in used
    }


def _error_response(status: int, media_type: str, model: type[BaseModel]) -> dict[str, Any]:
    names = ["X-Request-ID", *([HEADERS[status]] if status in HEADERS else [])]
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    description = STATUSES[status]
    if status == 400 and model is ErrorResponse:
        description = "The body is not valid JSON, a field is invalid (`param` names it), or a header is."
    return {"description": description, "headers": headers, "content": {media_type: {"schema": _reference(model)}}}


def _header(description: str, schema: JsonSchemaValue) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": schema}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


if __name__ == "__main__":
    print(json.dumps(document(), indent=2, ensure_ascii=False))  # noqa: T201  # `make openapi`
