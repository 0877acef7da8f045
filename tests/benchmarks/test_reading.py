"""The profile of reading a prompt."""

import shutil
from pathlib import Path

import pytest

from benchmarks.serving.reading import compile_model, read_prompts
from training.export.openvino_ir import export_openvino


@pytest.mark.parametrize("rows", [False, True])
def test_every_kind_of_operation_takes_time(rows: bool, tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path, dirs_exist_ok=True)
    export_openvino(tmp_path, tmp_path / "openvino")
    measured = read_prompts(compile_model(tmp_path, rows, "f32", 32), tokens=40, prompts=2)
    assert set(measured) == {"in all", "products", "attention", "other"}
    assert min(measured.values()) > 0
