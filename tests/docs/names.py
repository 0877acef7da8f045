"""Find names in a document that the project does not have. Each check yields one message per fault: file, line, and how to correct it."""

import importlib.util
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from pathlib import PurePosixPath
from posixpath import normpath

from tests.docs.markdown import Document, Passage

PLACEHOLDER = re.compile(r"[…*<>${}]|\b[A-Z]{3,}\b(?!\.)")
"""A path with an ellipsis, a wildcard, a variable or a word in capitals (DIR) is not checked."""
FILE_SUFFIXES = (".py", ".md", ".json", ".jsonl", ".yaml", ".toml", ".txt", ".sh", ".mts", ".html")
PROSE_BLOCKS = ("sh", "", "text", "mermaid")
"""The languages of blocks whose paths are checked. Other blocks hold answers and programs."""
COMMAND_PART = re.compile(r"(?P<end>&&|\|\||[|;])|(?P<flag>(?<![\w-])--[A-Za-z][\w-]*)|(?P<tool>make [a-z][a-z-]*|[\w.][\w./-]*)")
ROUTE = re.compile(r"(?:(?:GET|POST|HEAD) )?(/(?:[\w.{}-]+/?)*)")
LOCAL_URL = re.compile(r"http://127\.0\.0\.1:\d+(/[\w./-]*)?")
SYSTEM_DIRECTORIES = ("/dev", "/etc", "/home", "/tmp", "/usr", "/var")


def broken_links(document: Document, documents: Mapping[str, Document], exists: Callable[[str], bool]) -> Iterator[str]:
    for link in document.links:
        if re.match(r"[a-z][a-z+.-]*:", link.text):
            continue  # another site
        path, _, anchor = link.text.partition("#")
        target = normpath(PurePosixPath(document.path).parent / path) if path else document.path
        if not exists(target):
            yield link.fault(f"the target of the link {link.text} does not exist: correct the path, which is relative to this document")
        elif anchor and target in documents and anchor not in documents[target].anchors:
            yield link.fault(f"{target} has no heading with the anchor #{anchor}: take one of {sorted(documents[target].anchors)}")


def missing_paths(document: Document, folders: Set[str], exists: Callable[[str], bool], knows_name: Callable[[str], bool]) -> Iterator[str]:
    """A path in a top-level folder must exist. Any other file name must belong to a file, or occur in the sources that write it."""
    lines = [
        Passage(block.document, block.line + i, line)
        for block in document.blocks
        if block.language in PROSE_BLOCKS
        for i, line in enumerate(block.text.splitlines())
    ]
    for passage in document.spans + lines:
        for word in re.split(r"(?:[\s\"'`()\[\],;|=→]|<br/>)+", passage.text):
            path = word.partition("#")[0].partition("::")[0].rstrip(".:").removeprefix("./")
            if "://" in path or path.startswith("/") or PLACEHOLDER.search(path):
                continue
            folder, slash, _ = path.partition("/")
            if slash and folder in folders:
                if not exists(path.rstrip("/")):
                    yield passage.fault(f"{path} does not exist: name the file where it is now")
            elif path.endswith(FILE_SUFFIXES) and PurePosixPath(path).stem[0] != "." and not knows_name(path):
                yield passage.fault(f"no file is called {path}, and the sources write none: correct the name")


def unknown_flags(document: Document, tools: Mapping[str, Set[str]]) -> Iterator[str]:
    """A flag belongs to the last tool named before it in the command. A flag without a command may belong to any tool."""
    for command in document.commands:
        tool = None
        for part in COMMAND_PART.finditer(command.text):
            if part["end"]:
                tool = None
            elif part["tool"]:
                names = (part["tool"], PurePosixPath(part["tool"]).name)
                tool = next((name for name in names if name in tools), tool)
            elif part["flag"] not in (tools[tool] if tool else set().union(*tools.values())):
                yield command.fault(
                    f"{part['flag']} is no flag of {tool or 'a known tool'}: correct it, or add another program's to FOREIGN_FLAGS"
                )


def unknown_settings(document: Document, settings: Set[str]) -> Iterator[str]:
    for i, line in enumerate(document.text.splitlines(), 1):
        for name in re.findall(r"\bTRIGEN_[A-Z_]+\b", line):
            if name not in settings:
                yield Passage(document.path, i, line).fault(
                    f"{name} is no field of serving.settings.Settings: take one of {sorted(settings)}"
                )


def named_routes(document: Document) -> Iterator[tuple[Passage, str]]:
    """The routes in code spans, and the routes in URLs of the service anywhere in the text."""
    for span in document.spans:
        match = ROUTE.fullmatch(span.text)
        if match and not match[1].startswith(SYSTEM_DIRECTORIES):
            yield span, match[1]
    for i, line in enumerate(document.text.splitlines(), 1):
        for match in LOCAL_URL.finditer(line):
            yield Passage(document.path, i, line), match[1] or "/"


def is_route(path: str, routes: Collection[str]) -> bool:
    """Whether `path` is one of `routes` ({…} matches any segment) or the beginning of one, such as /v1."""
    return any(
        re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(route)), path) or route.startswith(path.rstrip("/") + "/") for route in routes
    )


def unknown_routes(document: Document, routes: Collection[str]) -> Iterator[str]:
    for passage, path in named_routes(document):
        if not is_route(path, routes):
            yield passage.fault(f"the service has no route {path}: take one of docs/openapi.json")


def unknown_targets(document: Document, targets: Set[str]) -> Iterator[str]:
    for command in document.commands:
        for target in re.findall(r"\bmake (?:[A-Z_]+=\S+ )*([a-z.][\w./-]*)", command.text):
            if target not in targets:
                yield command.fault(f"the Makefile has no target {target}: `make help` lists them")


def unknown_modules(document: Document) -> Iterator[str]:
    for command in document.commands:
        for module in re.findall(r"\bpython[\d.]* -m (\w[\w.]*)", command.text):
            try:
                found = importlib.util.find_spec(module)
            except ModuleNotFoundError:
                found = None
            if not found:
                yield command.fault(f"`python -m {module}` finds no such module: name it as it is imported")
