"""Choose the CPU engine's weights: measure how much F1 int8 costs each model, instead of assuming that it costs nothing."""

import asyncio
import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from datasets import Dataset

from models.llm import LLM
from training.data.selection import answerable
from training.evaluation.answers import answer_rows, f1_cost
from training.export.openvino_ir import Weights, export_openvino

MAX_QUESTIONS = 500
"""The maximum number of questions on which int8 and 16-bit weights are compared."""


def choose_weights(directory: Path, rows: Dataset, limit: float | None) -> dict[str, Any]:
    """Replace the int8 weights of an artifact with 16-bit ones if int8 costs too much F1 on `rows`.

    Too much is more than `limit` points plus the standard error of the cost; without a limit, int8 is always kept. Prints and returns the
    result: the chosen weights, the cost of int8 in points of F1, and the standard error.
    """
    rows = answerable(rows)
    rows = rows.select(range(min(MAX_QUESTIONS, len(rows))))
    with tempfile.TemporaryDirectory() as scratch:
        fp16 = Path(scratch)
        copy_with_weights(directory, fp16, "fp16")
        cost, error = f1_cost(_matches(directory, rows), _matches(fp16, rows))
        keep_int8 = limit is None or cost - error <= limit
        if not keep_int8:
            shutil.rmtree(directory / "openvino")
            shutil.copytree(fp16 / "openvino", directory / "openvino")
    print(
        f"int8 weights cost {cost:.2f} ± {error:.2f} points of F1 on {len(rows)} questions: "
        + ("kept" if keep_int8 else f"more than {limit}, so the CPU engine gets 16-bit weights (--int8-limit)"),
        flush=True,
    )
    return {"weights": "int8" if keep_int8 else "fp16", "int8_f1_cost": cost, "int8_f1_cost_error": error}


def copy_with_weights(artifact: Path, target: Path, weights: Weights) -> None:
    """Copy to `target` what the CPU engine reads of an artifact, with weights of another precision."""
    for file in artifact.glob("*.json"):
        shutil.copy(file, target)
    export_openvino(artifact, target / "openvino", weights)


def _matches(directory: Path, rows: Dataset) -> list[dict[str, float]]:
    """Return the EM and F1 of each answer to `rows`."""
    with closing(LLM.load(directory, "openvino")) as llm:
        return asyncio.run(answer_rows(llm, rows, with_context=True))[1]
