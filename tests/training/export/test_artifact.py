"""Writing an artifact: what each engine needs of it, and when."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.engines.transformers import TransformersEngine
from tests.conftest import HANG_SECONDS, PROJECT
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


COUNT_FORKS = """
import multiprocessing.process, os, sys
from pathlib import Path

for name in ("CI", "TF_BUILD", "JENKINS_URL"):
    os.environ.pop(name, None)
from training.export.openvino_ir import export_openvino

forks = []
multiprocessing.process.BaseProcess.start = lambda self: forks.append(self)
export_openvino(Path(sys.argv[1]), Path(sys.argv[2]))
print(len(forks))
"""


@pytest.mark.slow
def test_an_export_forks_nothing_to_report_its_use(tiny_base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT_FORKS, str(tiny_base), str(tmp_path / "openvino")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.stdout.splitlines()[-1:] == ["0"], done.stderr
