"""Imports run one way, nothing works at import time, and serving needs no training library."""

import ast
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Trained, run

FORBIDDEN = {
    "models": {"serving", "training", "service", "train"},
    "serving": {"training", "service", "train"},
    "training": {"serving", "service"},
}
TRAINING_ONLY = ("torch", "transformers", "datasets", "nncf", "accelerate")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package: str) -> None:
    files = list((PROJECT / package).rglob("*.py"))
    assert files
    assert {path.name: imported(path) & FORBIDDEN[package] for path in files if imported(path) & FORBIDDEN[package]} == {}


def test_importing_the_service_or_the_training_touches_nothing(tmp_path: Path) -> None:
    done = run(["-c", "import service, train"], tmp_path, BENTOML_HOME=str(tmp_path / "bentoml"))
    assert (done.returncode, done.stdout) == (0, "")


def test_all_three_models_run_without_the_training_libraries(trained: Trained) -> None:
    program = f"""
import sys
for name in {TRAINING_ONLY}:
    sys.modules[name] = None  # importing it fails
import asyncio
from pathlib import Path
from models.base import SamplingParams
from models.bigram import Bigram
from models.llm import LLM
from models.rnn import LSTM
from models.store import find
import service

async def text(model):
    return "".join([token.text async for token in model.stream("The", SamplingParams(5))])

for name, kind in (("bigram", Bigram), ("rnn", LSTM), ("llm", LLM)):
    print(name, repr(asyncio.run(text(kind.load(Path(find(name).path))))))
"""
    done = run(["-c", program], trained.home)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["bigram", "rnn", "llm"]
