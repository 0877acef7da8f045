"""What docs/openapi.json says of an answer, and whether it is so."""

import json
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from tests.conftest import PROJECT


@cache
def contract() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((PROJECT / "docs/openapi.json").read_text())
    return document


def check_schema(value: Any, name: str) -> None:
    """The value is what the component says."""
    Draft202012Validator({"components": contract()["components"], "$ref": f"#/components/schemas/{name}"}).validate(value)


def check_answer(answer: httpx.Response) -> None:
    """The answer's status is documented for its route, and with it its type, its headers and its body."""
    path, method = answer.request.url.path, answer.request.method.lower()
    path = "/v1/models/{model}" if path.startswith("/v1/models/") else path
    documented = contract()["paths"][path][method]["responses"][str(answer.status_code)]
    documented = _resolved(documented)
    for name, header in documented["headers"].items():
        assert name in answer.headers, (path, answer.status_code, name)
        Draft202012Validator(_resolved(header)["schema"]).validate(
            int(answer.headers[name]) if name == "Retry-After" else answer.headers[name]
        )
    media_type = answer.headers["content-type"].split(";")[0]
    assert media_type in documented["content"], (path, answer.status_code, media_type)
    if media_type.endswith("json"):
        schema = documented["content"][media_type]["schema"]
        Draft202012Validator({"components": contract()["components"], **schema}).validate(answer.json())


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        _, kind, name = node["$ref"].removeprefix("#/").split("/")
        resolved: dict[str, Any] = contract()["components"][kind][name]
        return resolved
    return node
