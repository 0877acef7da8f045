"""The table of faults in `docs/reliability.md` has a row for each test of a fault, and each of these tests exists."""

import ast
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.docs.project import source
from tests.faults.table import HEADER, ROWS, Row, first_cells, last_cell, render


def functions(path: str) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(source(path))) if isinstance(node, ast.FunctionDef)}


def test_the_table_has_the_rows_of_the_tests() -> None:
    _, header, table = source("docs/reliability.md").partition(HEADER)
    assert header, "run `make test-faults`"
    lines = table.partition("\n\n")[0].splitlines()
    for line, row in zip(lines, ROWS, strict=True):
        assert line.startswith(first_cells(row)), "run `make test-faults`"
        assert line.endswith(last_cell(row)), "run `make test-faults`"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_the_test_of_a_fault_exists(row: Row) -> None:
    path, _, name = row.test.partition("::")
    assert name.partition("[")[0] in functions(path)


def test_every_test_of_a_fault_has_a_row() -> None:
    named = {row.test.partition("[")[0] for row in ROWS}
    files = [str(path.relative_to(PROJECT)) for path in (PROJECT / "tests/faults").glob("test_*.py")]
    assert files
    assert {f"{path}::{name}" for path in files for name in functions(path) if name.startswith("test_")} <= named


def test_a_row_shows_what_was_measured() -> None:
    measured = {"gap": 1.234, "others": 0.05, "lost": {"llm, streamed": 1}, "requests": 50}
    records: dict[str, dict[str, Any]] = {row.test: {} for row in ROWS} | {ROWS[1].test: measured}
    lines = render(records).splitlines()
    assert "| 1.2 s | 0.1 s | 1 of 50 (1 llm stream) |" in lines[3]
    assert "| not measured | – | – |" in lines[2]
    assert "| – | – | – |" in lines[-1]
