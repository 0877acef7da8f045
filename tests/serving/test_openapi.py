"""The OpenAPI document: valid, the same everywhere, and good to generate clients from."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
from openapi_spec_validator import validate

from serving import __version__
from serving.openapi import TAGS, document
from tests.conftest import PROJECT, Server


def test_it_is_valid_and_docs_hold_it() -> None:
    validate(document())
    checked_in = (PROJECT / "docs/openapi.json").read_text()
    assert json.loads(checked_in) == document(), "run `make openapi`"
    assert document()["info"]["version"] == __version__


def test_the_service_serves_it(server: Server) -> None:
    assert httpx.get(f"{server.url}/docs.json").json() == document()


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document()["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_every_route_is_in_it_under_a_good_name(server: Server) -> None:
    named = {path: operation["operationId"] for path, operation in operations()}
    assert named == {
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
    bentoml_routes = {route["route"] for route in httpx.get(f"{server.url}/schema.json").json()["routes"]}
    assert bentoml_routes <= set(named)
    assert all([tag in TAGS for tag in operation["tags"]] == [True] for _, operation in operations())


def test_bodies_are_components_and_everything_is_described() -> None:
    for path, operation in operations():
        contents = [operation["requestBody"]] if "requestBody" in operation else []
        contents += [operation["responses"]["200"]] if path not in ("/livez", "/readyz") else []
        assert all(set(each["content"]["application/json"]["schema"]) == {"$ref"} for each in contents)
    schemas = document()["components"]["schemas"]
    assert not [name for name in schemas if "IODescriptor" in name]
    undescribed = [
        (name, field)
        for name, schema in schemas.items()
        for field, described in schema.get("properties", {}).items()
        if not ({"description", "const"} & set(described) or set(described) == {"$ref"})
    ]
    assert undescribed == []
    text = json.dumps(document())
    assert not [word for word in ("ge", "le", "gt", "lt") if f'"{word}": ' in text]  # pydantic's, beside `minimum` and `maximum`
    assert schemas["GenerateResponse"]["properties"]["seed"]["format"] == "int64"  # half of all seeds exceed an int of Java
    assert "title" not in {key for schema in schemas.values() for field in schema.get("properties", {}).values() for key in field}


def test_every_status_that_can_occur_is_documented() -> None:
    statuses = {path: set(operation["responses"]) for path, operation in operations()}
    body = {"200", "400", "401", "413", "415", "422", "429", "500", "504"}
    assert statuses["/generate_text"] == statuses["/generate_with_rnn"] == body
    assert statuses["/generate_with_llm"] == statuses["/answer_question"] == body | {"503"}
    assert statuses["/v1/completions"] == body - {"422"} | {"404", "503"}
    assert statuses["/v1/models/{model}"] == {"200", "401", "404", "500"}
    assert statuses["/v1/models"] == statuses["/info"] == {"200", "401", "500"}


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_loads_nothing_from_other_hosts(server: Server) -> None:
    page = httpx.get(f"{server.url}/")
    assert page.headers["content-type"].startswith("text/html")
    links = _Links()
    links.feed(page.text)
    assert links.found
    assert all(link.startswith("./") for link in links.found)
    assert all(httpx.get(f"{server.url}/{link}").status_code == 200 for link in links.found)
    assert not re.search(r"https?://", page.text)
