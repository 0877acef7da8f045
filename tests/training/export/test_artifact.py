"""Writing an artifact: what each engine needs of it, and when."""

from pathlib import Path

import pytest

from models.engines.transformers import TransformersEngine
from training.export.artifact import export_for_cpu, open_artifact, save_artifact
from training.fine_tuning.base_model import load_base


def test_a_gpu_validates_without_the_cpus_export_which_the_artifact_gets_in_the_end(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_base(str(tiny_base), 64)
    save_artifact(model, tokenizer, tmp_path / "llm", "context-first")
    monkeypatch.setattr("models.engines._has_cuda", lambda: True)
    with open_artifact(tmp_path / "llm") as llm:
        assert isinstance(llm.engine, TransformersEngine)
    assert not (tmp_path / "llm/openvino").exists()
    export_for_cpu(tmp_path / "llm")
    written = (tmp_path / "llm/openvino/openvino_model.bin").stat().st_mtime_ns
    export_for_cpu(tmp_path / "llm")
    assert (tmp_path / "llm/openvino/openvino_model.bin").stat().st_mtime_ns == written
