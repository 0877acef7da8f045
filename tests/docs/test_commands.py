"""The commands of the README and of docs/calling.md run as they are, and the answers have the keys that the documents show."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Server, Trained
from tests.docs.commands import RUNNABLE, URL, answers, keys, needless_skips, run_block, shown_answers
from tests.docs.markdown import Block, Document
from tests.docs.project import documents, project_files

TESTED = ("README.md", "docs/calling.md")
SECONDS, SLOW_SECONDS = 300, 3600
"""Time limits, for commands that hang."""
BLOCKS = [block for path in TESTED if path in documents() for block in documents()[path].blocks if block.language in RUNNABLE]
SHOWN = {block: text for path in TESTED if path in documents() for block, text in shown_answers(documents()[path]).items()}


def name(block: Block) -> str:
    return f"{block.document}:{block.line}"


@pytest.fixture(scope="module")
def directory(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose examples call the server. It shares the project's virtual environments."""
    copy = tmp_path_factory.mktemp("readme") / "trigen"
    for path in project_files():
        target = copy / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / path, target)  # keeps the time: make compares it with that of the environments
    for example in (copy / "examples").glob("*.*"):
        example.write_text(example.read_text().replace(URL, server.url))
    subprocess.run(["make", ".venv-clients/.installed"], cwd=PROJECT, check=True, capture_output=True)  # done if this is `make test`
    for environment in PROJECT.glob(".venv-*"):
        (copy / environment.name).symlink_to(environment)
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


def run(block: Block, url: str, directory: Path, environment: Mapping[str, str], log: Path, seconds: float) -> None:
    printed = run_block(block, url, directory, {**environment, "NO_PROXY": "127.0.0.1"}, log, seconds)
    if block in SHOWN:
        expected, actual = ([sorted(keys(answer)) for answer in answers(text)] for text in (SHOWN[block], printed))
        assert actual == expected, block.fault(f"the answer's keys are not those shown below; correct the document, or the API:\n{printed}")


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.skip], ids=name)
def test_a_block_runs(block: Block, server: Server, trained: Trained, directory: Path, tmp_path: Path) -> None:
    run(block, server.url, directory, trained.environment(), tmp_path / "log", SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.skip == "slow"], ids=name)
def test_a_slow_block_runs(block: Block, server: Server, trained: Trained, directory: Path, tmp_path: Path) -> None:
    """Blocks that train or serve share a model store, which is empty at first. Other blocks use the server of the fast tests."""
    environment, url = trained.environment(), server.url
    if re.search(r"train\.py|make (serve|train)", block.text):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment |= {"BENTOML_HOME": str(directory / "bentoml"), "PORT": str(port)}
        url = f"http://127.0.0.1:{port}"
    if "make test" in block.text:
        environment["MAKEFLAGS"] = "--dry-run"  # it would run these tests
    run(block, url, directory, environment, tmp_path / "log", SLOW_SECONDS)


@pytest.mark.parametrize("path", TESTED)
def test_no_block_is_skipped_without_need(path: str) -> None:
    assert any(block.document == path for block in BLOCKS), f"{path} has no commands"
    faults = list(needless_skips(documents()[path]))
    assert not faults, "\n" + "\n".join(faults)


# The checks themselves.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- test: skip slow -->\n```sh\nmake serve   # trains first\n```\n", []),
        ("<!-- test: skip slow -->\n```sh\nls\n```\n", ["a.md:3:", "slow"]),
        ("<!-- test: skip lazy -->\n```sh\nmake serve\n```\n", ["a.md:3:", "lazy"]),
        ("<!-- test: skip slow -->\nHere:\n```sh\nmake serve\n```\n", ["a.md:", "mark"]),
        ("<!-- test: skip hub -->\n```sh\npython train.py --epochs 3\n```\n", []),
        ("<!-- test: skip hub -->\n```sh\npython train.py --preset quickstart\n```\n", ["a.md:3:", "hub"]),
        ("<!-- test: skip gpu -->\n```sh\naccelerate launch \\\n  train.py\n```\n", []),
        ("<!-- test: skip container -->\n```sh\nmake image\ndocker run x\n```\n", []),
        ("<!-- test: skip container -->\n```sh\nmake image\ncurl x\n```\n", ["a.md:3:", "container"]),
    ],
)
def test_a_needless_skip_is_reported(text: str, words: list[str]) -> None:
    faults = list(needless_skips(Document("a.md", text)))
    assert len(faults) == bool(words)
    assert all(word in faults[0] for word in words)


def test_answers_are_compared_by_their_keys() -> None:
    (block, shown), *others = shown_answers(
        Document("a.md", '```sh\ncurl x\n```\n```json\n{"a": 1}\n{"a": 2}\n```\n\nB:\n\n```json\n{}\n```\n')
    ).items()
    assert (block.text, shown, others) == ("curl x\n", '{"a": 1}\n{"a": 2}\n', [])
    assert answers('{"a": 1}{"a": 2}') == answers(shown) == [{"a": 1}, {"a": 2}]
    assert answers('data: {"text": "a"}\n\ndata: {"text": "b", "seed": 1}\n\ndata: [DONE]\n\n') == [{"text": "b", "seed": 1}]
    assert keys({"a": [{"b": 1}, {"c": {"top_logprobs": [{"x": 1}]}}]}) == {".a", ".a.b", ".a.c", ".a.c.top_logprobs"}
    with pytest.raises(ValueError, match="Expecting value"):
        answers("Internal Server Error")


def test_a_block_that_fails_or_needs_port_3000_is_reported(tmp_path: Path) -> None:
    def check(text: str) -> str:
        (block,) = Document("a.md", f"```sh\n{text}\n```\n").blocks
        return run_block(block, "http://127.0.0.1:1", tmp_path, os.environ, tmp_path / "log", SECONDS)

    assert check(f"sleep 300 &\necho {URL}/info; pwd") == f"http://127.0.0.1:1/info\n{tmp_path}\n"
    for text in ("false\ntrue", "curl -s localhost:3000"):
        with pytest.raises(AssertionError, match=r"^a\.md:2: "):
            check(text)
