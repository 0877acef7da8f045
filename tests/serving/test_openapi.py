"""The OpenAPI document is valid, complete, the same everywhere, and suited to generating clients."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from openapi_spec_validator import validate

from serving import __version__
from serving.openapi import document
from serving.operations import TAGS
from tests.client import get
from tests.conftest import PROJECT, Server


def test_the_document_is_valid_and_docs_openapi_json_is_current() -> None:
    validate(document())
    committed = (PROJECT / "docs/openapi.json").read_text()
    assert json.loads(committed) == document(), "run `make openapi`"
    assert document()["info"]["version"] == __version__


def test_the_service_serves_the_document(server: Server) -> None:
    assert get(f"{server.url}/docs.json").json() == document()


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document()["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_every_route_is_documented_with_its_operation_id(server: Server) -> None:
    operation_ids = {path: operation["operationId"] for path, operation in operations()}
    assert operation_ids == {
        "/generate_text": "generate_text",
        "/generate_with_rnn": "generate_with_rnn",
        "/generate_with_llm": "generate_with_llm",
        "/answer_question": "answer_question",
        "/v1/completions": "create_completion",
        "/v1/models": "list_models",
        "/v1/models/{model}": "get_model",
        "/info": "get_info",
        "/livez": "check_liveness",
        "/readyz": "check_readiness",
    }
    bentoml_routes = {route["route"] for route in get(f"{server.url}/schema.json").json()["routes"]}
    assert bentoml_routes <= set(operation_ids)
    assert all([tag in TAGS for tag in operation["tags"]] == [True] for _, operation in operations())


def test_bodies_are_components_and_every_field_has_a_description() -> None:
    for path, operation in operations():
        contents = [operation["requestBody"]] if "requestBody" in operation else []
        contents += [operation["responses"]["200"]] if path not in ("/livez", "/readyz") else []
        assert all(set(content["content"]["application/json"]["schema"]) == {"$ref"} for content in contents)
    schemas = document()["components"]["schemas"]
    assert not [name for name in schemas if "IODescriptor" in name]
    undescribed = [
        (name, field)
        for name, schema in schemas.items()
        for field, field_schema in schema.get("properties", {}).items()
        if not ({"description", "const"} & set(field_schema) or set(field_schema) == {"$ref"})
    ]
    assert undescribed == []
    text = json.dumps(document())
    assert not [word for word in ("ge", "le", "gt", "lt") if f'"{word}": ' in text]  # pydantic's duplicates of `minimum` and `maximum`
    assert schemas["GenerateResponse"]["properties"]["seed"]["format"] == "int64"  # half of all seeds exceed Java's int
    assert "title" not in {key for schema in schemas.values() for field in schema.get("properties", {}).values() for key in field}


def test_every_possible_status_is_documented() -> None:
    statuses = {path: set(operation["responses"]) for path, operation in operations()}
    body = {"200", "400", "401", "408", "413", "415", "422", "429", "500", "503", "504"}
    assert statuses["/generate_text"] == statuses["/generate_with_rnn"] == body
    assert statuses["/generate_with_llm"] == statuses["/answer_question"] == body
    assert statuses["/v1/completions"] == body - {"422"} | {"404"}
    assert statuses["/v1/models/{model}"] == {"200", "401", "404", "500", "503"}
    assert statuses["/v1/models"] == statuses["/info"] == {"200", "401", "500", "503"}


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_documentation_page_loads_nothing_from_other_hosts(server: Server) -> None:
    page = get(f"{server.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    links = _Links()
    links.feed(page.text)
    assert links.urls
    assert all(url.startswith("./") for url in links.urls)
    assert all(get(f"{server.url}/{url}").status_code == 200 for url in links.urls)
    assert not re.search(r"https?://", page.text)
