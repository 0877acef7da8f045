import json
import shutil
from pathlib import Path

import pytest

from models.llm import SETTINGS_FILE
from tests.conftest import QUICKSTART
from training.data.squad import load_splits
from training.export.openvino_ir import export_openvino
from training.export.quantization import choose_weights


@pytest.mark.parametrize(("limit", "weights"), [(None, "int8"), (1000.0, "int8"), (-1000.0, "fp16")])
def test_int8_is_kept_if_it_costs_no_more_than_the_limit(tiny_base: Path, tmp_path: Path, limit: float | None, weights: str) -> None:
    shutil.copytree(tiny_base, tmp_path, dirs_exist_ok=True)
    (tmp_path / SETTINGS_FILE).write_text(json.dumps({"document_start": ""}))
    export_openvino(tmp_path, tmp_path / "openvino")
    before = (tmp_path / "openvino/openvino_model.bin").stat().st_size
    chosen = choose_weights(tmp_path, load_splits(str(QUICKSTART)).test.select(range(4)), limit)
    assert chosen["weights"] == weights
    assert set(chosen) == {"weights", "int8_f1_cost", "int8_f1_cost_error"}
    after = (tmp_path / "openvino/openvino_model.bin").stat().st_size
    assert after == before if weights == "int8" else after > 1.5 * before
