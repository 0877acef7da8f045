"""The benchmark for a GPU, as far as a CPU goes: the real script with a tiny model, and what becomes of parts that fail."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.parts import Options, run_part
from benchmarks.gpu.report import write_report
from benchmarks.gpu.training import FULL_FLAGS, QUICK_FLAGS
from tests.conftest import run
from training.config import parse

TRAINING = {"rows_per_second": 10.0, "tokens_per_second": 500.0, "steps": 9, "peak_gb": 2.0, "gpu_gb": 9.0, "flops_per_token": 6e8}
CELL = {"tokens_per_second": 100.0, "first_token_p50": 0.01, "first_token_p99": 0.02, "answer_p50": 0.5, "answers": 7}


@pytest.mark.slow
def test_the_script_runs_every_part_that_a_cpu_can(tmp_path: Path) -> None:
    done = run(["-m", "benchmarks.gpu", "--quick", "--directory", str(tmp_path / "bench")], tmp_path)
    assert done.returncode == 0, done.stderr
    results: dict[str, dict[str, Any]] = json.loads((tmp_path / "bench/results.json").read_text())
    assert {name: result["failed"] for name, result in results.items() if "failed" in result} == {}
    skipped = {name for name, result in results.items() if "skipped" in result}
    assert skipped <= {"training/TRL, padded", "training/TRL, packed", "training/TRL, packed, Liger", "serving/vLLM"}  # not installed
    assert results["training/trigen"]["rows_per_second"] > 0
    assert results["SQuAD"]["steps"] == 2
    assert results["serving/trigen"]["clients"].keys() == {"1", "8"}
    report = (tmp_path / "bench/report.md").read_text()
    assert report.strip() == done.stdout.strip()
    assert all(f"| {name.split('/')[1]} |" in report for name in results if name.startswith("training/") and name not in skipped)
    assert (tmp_path / "bench/gpu.png").exists()


def test_a_part_that_fails_or_takes_too_long_is_a_result(tmp_path: Path) -> None:
    options = Options(None, None, tmp_path, quick=True)
    assert run_part("machine", 0, options) == {"skipped": "the time was over"}
    assert run_part("machine", 0.1, options) == {"failed": "took longer than 0 s"}
    assert "invalid choice" in run_part("no such part", 60, options)["failed"]


def test_the_report_compares_with_the_best_peer_and_says_what_is_missing(tmp_path: Path) -> None:
    results: dict[str, dict[str, Any]] = {
        "machine": {"failed": "no module"},
        "training/trigen": TRAINING,
        "training/TRL, padded": TRAINING | {"rows_per_second": 4.0},
        "training/TRL, packed": TRAINING | {"rows_per_second": 5.0},
        "training/TRL, packed, Liger": {"skipped": "Liger has no kernels for gpt2"},
        "serving/vLLM": {"clients": {"1": CELL, "8": CELL}},
        "serving/trigen": {"clients": {"1": CELL, "8": CELL | {"tokens_per_second": 250.0}}},
    }
    text = write_report(tmp_path, {name: result | {"wall_seconds": 60.0} for name, result in results.items()})
    assert "2.00 times as many rows a second as TRL at its best" in text
    assert "| TRL, padded | 4.0 | 500 | – | 9.0 | 2.0 | 2.50 |" in text
    assert "| 8 | vLLM | 100 | 10 | 20 | 500 | 7 | 2.50 |" in text
    assert "| machine | failed | no module |" in text
    assert "| training/TRL, packed, Liger | skipped | Liger has no kernels for gpt2 |" in text
    assert "took 7.0 minutes" in text
    assert (tmp_path / "report.md").read_text().strip() == text
    assert (tmp_path / "gpu.png").exists()
    write_report(tmp_path, {"machine": {"failed": "no module", "wall_seconds": 1.0}})


def test_the_flags_for_squad_are_those_of_train() -> None:
    full = parse(FULL_FLAGS.split())
    assert (full.preset, full.epochs, full.batch_tokens, full.micro_tokens) == ("gpt2-squad-1gpu", 3, 16_384, 16_384)
    assert parse(QUICK_FLAGS.split()).max_steps == 2
