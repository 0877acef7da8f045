"""Imports run one way, packages stay small, importing does no work, and serving needs no training library."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Trained, run

FORBIDDEN_IMPORTS = {
    "models": {"serving", "training", "service", "train"},
    "serving": {"training", "service", "train"},
    "training": {"serving", "service", "train"},
}
TRAINING_IMPORTS: dict[str, set[str]] = {
    "base": set(),
    "data": {"base"},
    "run": {"base", "data"},
    "evaluation": {"base", "data"},
    "export": {"base", "data", "evaluation"},
    "word_models": {"base", "data", "evaluation"},
    "fine_tuning": {"base", "data", "run", "evaluation", "export"},
    "comparison": {"base", "data", "run", "evaluation", "export", "fine_tuning"},
}
"""The parts of training/, each with the parts that it may import. `base` is all modules directly in training/, except run.py."""
TRAINING_ONLY = ("torch", "transformers", "datasets", "nncf", "accelerate")
MAX_MODULES = 10  # without __init__.py


def imported_modules(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports. The project has no relative imports."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("package", FORBIDDEN_IMPORTS)
def test_packages_import_one_way(package: str) -> None:
    files = list((PROJECT / package).rglob("*.py"))
    assert files
    imports = {str(path): {name.split(".")[0] for name in imported_modules(path)} & FORBIDDEN_IMPORTS[package] for path in files}
    assert {path: names for path, names in imports.items() if names} == {}


def part_of_training(module: str) -> str:
    """Return the part of training/ to which a module belongs."""
    part = module.split(".")[1]
    return part if part in TRAINING_IMPORTS else "base"


def test_the_parts_of_training_import_one_way() -> None:
    wrong = set()
    for path in (PROJECT / "training").rglob("*.py"):
        part = part_of_training(".".join(path.relative_to(PROJECT).with_suffix("").parts))
        imported = {part_of_training(name) for name in imported_modules(path) if name.startswith("training.")}
        wrong |= {(str(path), other) for other in imported - TRAINING_IMPORTS[part] - {part}}
    assert wrong == set()


def test_no_package_has_more_than_ten_modules() -> None:
    roots = ["models", "training", "serving", "benchmarks", "tests"]
    assert all((PROJECT / root / "__init__.py").exists() for root in roots)
    modules = [*PROJECT.glob("*.py"), *(path for root in roots for path in (PROJECT / root).rglob("*.py"))]
    sizes = Counter(path.parent for path in modules if path.name != "__init__.py")
    assert {str(directory): size for directory, size in sizes.items() if size > MAX_MODULES} == {}


def test_importing_the_service_or_the_training_has_no_side_effects(tmp_path: Path) -> None:
    done = run(["-c", "import service, train"], tmp_path, BENTOML_HOME=str(tmp_path / "bentoml"))
    assert (done.returncode, done.stdout) == (0, "")


def test_all_models_run_without_the_training_libraries(trained: Trained) -> None:
    program = f"""
import sys
for name in {TRAINING_ONLY}:
    sys.modules[name] = None  # importing it fails
import asyncio
from pathlib import Path
from models.base import SamplingParams
from models.bigram import Bigram
from models.llm import LLM
from models.rnn import RNN
from models.store import find
import service

async def text(model):
    return "".join([token.text async for token in model.stream("The", SamplingParams(5))])

for name, kind in (("bigram", Bigram), ("rnn", RNN), ("llm", LLM)):
    print(name, repr(asyncio.run(text(kind.load(Path(find(name).path))))))
"""
    done = run(["-c", program], trained.home)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["bigram", "rnn", "llm"]
