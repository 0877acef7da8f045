"""The benchmark of how cost grows: the real script with a tiny model, what it computes from its measurements, and that limits confine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.random_base import save_random_gpt2
from benchmarks.scaling.limits import confined, cores, product_rate
from benchmarks.scaling.parts import AT_ONCE, ENGINE_AT_ONCE, PROMPTS, core_counts
from benchmarks.scaling.report import least_first_token, most_prompt_tokens, most_tokens, write
from tests.conftest import run

LIMITS = {"bytes_per_second": 10e9, "int8": 1e12, "int8_kernel": "gemm_I8", "bf16": 0.5e12, "bf16_kernel": "gemm_bf16"}
COMPLETIONS = {"tokens_per_second": 50.0, "answers": 9, "cut_off": 2, "busy": 1.9} | {
    f"{time}_p{percent}": 0.25 for time in ("first_token", "answer") for percent in (50, 99)
}
PROMPT = {"first_token": 0.2, "tokens_per_second": 1280.0, "prompts": 5}
RESULTS: dict[str, Any] = {
    "machine": {"processor": "a processor", "cores": 2, "openvino": "2026.4"},
    "weights": {"blocks": 80_000_000, "head": 20_000_000},
    "limits": {"1": LIMITS | {"int8": 0.6e12}, "2": LIMITS},
    "requests": {"1": COMPLETIONS, "256": COMPLETIONS | {"tokens_per_second": 2_500.0}},
}


@pytest.mark.slow
def test_the_script_measures_every_part(tmp_path: Path) -> None:
    save_random_gpt2(tmp_path / "base", 1000, vocab_size=1000, n_positions=4_352, n_embd=64, n_layer=2, n_head=2)
    command = ["-m", "benchmarks.scaling", "--base-model", str(tmp_path / "base"), "--seconds", "0.2", "--directory", str(tmp_path / "out")]
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out/scaling.json").read_text())
    assert [*results["requests"]] == [str(number) for number in AT_ONCE]
    assert [*results["engine"]] == [str(number) for number in ENGINE_AT_ONCE]
    assert [*results["prompts"]] == [str(length) for length in PROMPTS]
    assert [*results["cores"]] == [*results["workers"]] == [str(count) for count in core_counts()]
    assert all(cell["answers"] for cell in results["requests"].values())
    assert done.stdout.endswith((tmp_path / "out/scaling.md").read_text())

    again = run([*command, "--only", "prompts"], tmp_path)
    assert again.returncode == 0, again.stderr
    kept = json.loads((tmp_path / "out/scaling.json").read_text())
    assert kept.pop("prompts") != results.pop("prompts")
    assert kept == results


def test_the_limits_are_memory_first_and_then_the_products() -> None:
    assert most_tokens(RESULTS, 1) == 100  # 10 GB/s over 100 MB of weights
    assert most_tokens(RESULTS, 32) == 3_200
    assert most_tokens(RESULTS, 256) == 5_000  # 1e12 operations/s, 2e8 for a token
    assert most_tokens(RESULTS, 256, cores="1") == 3_000
    assert most_prompt_tokens(RESULTS, "bf16") == 3_125  # without the head
    assert least_first_token(RESULTS, 16) == 0.01  # reading the weights takes longer than the products
    assert least_first_token(RESULTS, 6_250) == 1


def test_the_report_has_the_parts_that_were_measured(tmp_path: Path) -> None:
    text = write(tmp_path, RESULTS)
    assert "| 256 | 2,500 | 50% | – | 250 | 250 | 250 | 250 | 9 | 2 |" in text
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.md", "requests.png"}
    others = {
        "engine": RESULTS["requests"],
        "prompts": {"256": PROMPT},
        "cores": {"1": {"completions": {"1": COMPLETIONS}, "prompt": PROMPT}},
    }
    text = write(tmp_path, RESULTS | others)
    assert "| 256 | 2,500 | 50% | 2,500 |" in text
    assert "| 256 | 200.0 | 1,280 | 20% | 5 |" in text
    assert "| 1 | 50 | 200 | 1,280 | 1.90 |" in text
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.md", "requests.png", "prompts.png", "cores.png"}


def test_processes_are_confined_to_some_processors() -> None:
    before, cpu = os.sched_getaffinity(0), cores()[-1]
    with confined([cpu]):
        printed = subprocess.check_output([sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], text=True)
    assert printed.strip() == str({cpu})
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(("precision", "kernel"), [("int8", "I8"), ("bf16", "")])
def test_a_rate_is_that_of_products_in_its_precision(precision: str, kernel: str) -> None:
    rate, name = product_rate(precision, 0.01, size=256)
    assert rate > 0
    assert name.endswith(kernel)  # a processor without bf16 computes in f32
