"""Checks of responses against docs/openapi.json."""

import json
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from tests.conftest import PROJECT


@cache
def contract() -> dict[str, Any]:
    """Return the parsed docs/openapi.json."""
    document: dict[str, Any] = json.loads((PROJECT / "docs/openapi.json").read_text())
    return document


def check_schema(value: Any, name: str) -> None:
    """Check a value against a component of the document."""
    Draft202012Validator({"components": contract()["components"], "$ref": f"#/components/schemas/{name}"}).validate(value)


def check_response(response: httpx.Response) -> None:
    """Check that the document allows this status on this route, and that the headers, the media type and the body are as documented."""
    path, method = response.request.url.path, response.request.method.lower()
    path = "/v1/models/{model}" if path.startswith("/v1/models/") else path
    documented = _resolve(contract()["paths"][path][method]["responses"][str(response.status_code)])
    for name, header in documented["headers"].items():
        assert name in response.headers, (path, response.status_code, name)
        value = response.headers[name]
        Draft202012Validator(_resolve(header)["schema"]).validate(int(value) if name == "Retry-After" else value)
    media_type = response.headers["content-type"].split(";")[0]
    assert media_type in documented["content"], (path, response.status_code, media_type)
    if media_type.endswith("json"):
        schema = documented["content"][media_type]["schema"]
        Draft202012Validator({"components": contract()["components"], **schema}).validate(response.json())


def _resolve(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        _, kind, name = node["$ref"].removeprefix("#/").split("/")
        component: dict[str, Any] = contract()["components"][kind][name]
        return component
    return node
