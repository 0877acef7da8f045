"""Every link, file, flag, setting, route, target and module in the documents exists, and none is left undocumented."""

import re
from collections.abc import Callable, Iterator

import pytest

from tests.client import get
from tests.conftest import Server
from tests.docs.markdown import Document
from tests.docs.names import (
    broken_links,
    is_route,
    missing_paths,
    named_routes,
    unknown_flags,
    unknown_modules,
    unknown_routes,
    unknown_settings,
    unknown_targets,
)
from tests.docs.project import OTHER_ROUTES, documents, exists, folders, knows_name, project_files, routes, settings, source, targets, tools

CHECKS: dict[str, Callable[[Document], Iterator[str]]] = {
    "links": lambda document: broken_links(document, documents(), exists),
    "paths": lambda document: missing_paths(document, folders(), exists, knows_name),
    "flags": lambda document: unknown_flags(document, tools()),
    "settings": lambda document: unknown_settings(document, settings()),
    "routes": lambda document: unknown_routes(document, routes() | OTHER_ROUTES),
    "targets": lambda document: unknown_targets(document, targets()),
    "modules": unknown_modules,
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_documents_name_nothing_that_does_not_exist(check: str) -> None:
    assert "README.md" in documents()
    # The change log may name files that are gone.
    checked = [document for document in documents().values() if (check, document.path) != ("paths", "CHANGELOG.md")]
    faults = [fault for document in checked for fault in CHECKS[check](document)]
    assert not faults, "\n" + "\n".join(faults)


def test_every_setting_is_documented() -> None:
    text = "\n".join(document.text for document in documents().values())
    missing = {name for name in settings() if not re.search(rf"\b{name}\b", text)}
    assert not missing, f"add {missing} to the settings in docs/operating.md"


def test_every_route_is_documented() -> None:
    named = {path for document in documents().values() for _, path in named_routes(document)}
    missing = {route for route in routes() if not any(is_route(path, [route]) and path.count("/") == route.count("/") for path in named)}
    assert not missing, f"document {missing} in docs/calling.md or docs/operating.md"


def test_every_make_target_of_the_help_is_documented() -> None:
    listed = re.findall(r"^([a-z-]+):.*## ", source("Makefile"), re.MULTILINE)
    assert "serve" in listed
    commands = "\n".join(command.text for document in documents().values() for command in document.commands)
    missing = [target for target in listed if not re.search(rf"\bmake {target}(?![\w-])", commands)]
    assert not missing, f"name `make {missing[0]}` in a document (CONTRIBUTING.md has the commands for developers); all: {missing}"


@pytest.mark.parametrize("package", ["models", "serving", "training"])
def test_every_module_is_in_the_architecture(package: str) -> None:
    modules = [file for file in project_files() if file.startswith(f"{package}/") and re.fullmatch(r".*/(?!__)\w+\.py", file)]
    assert modules
    missing = [file for file in modules if not re.search(rf"\b{re.escape(file.split('/')[-1])}", source("docs/architecture.md"))]
    assert not missing, f"add a line for {missing} to the tree in docs/architecture.md"


def test_the_readme_has_at_most_150_lines() -> None:
    lines = source("README.md").count("\n")
    assert lines <= 150, f"README.md has {lines} lines: move what is not needed in the first five minutes to docs/"


@pytest.mark.parametrize("route", sorted(OTHER_ROUTES))
def test_the_routes_outside_the_openapi_document_answer(server: Server, route: str) -> None:
    assert get(server.url + route, follow_redirects=True).status_code == 200
