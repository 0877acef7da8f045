"""Whether the CPU engine gets int8 weights: what they cost in answers is measured for each model, not assumed."""

import asyncio
import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from datasets import Dataset

from models.llm import LLM
from training.evaluation.answers import ask, f1_cost
from training.export.openvino_ir import Weights, export_openvino

QUESTIONS = 500
"""On which the two are compared, at most."""


def choose_weights(directory: Path, rows: Dataset, limit: float | None) -> dict[str, Any]:
    """Put 16-bit weights in the place of an artifact's int8 weights where those cost more than `limit` points of F1 on `rows`, by more
    than the standard error of the questions' differences; None keeps int8 whatever it costs. Says so, and returns which weights
    there are, what int8 costs in points, and the error.
    """
    rows = rows.select(range(min(QUESTIONS, len(rows))))
    with tempfile.TemporaryDirectory() as scratch:
        exact = Path(scratch)
        copy_with_weights(directory, exact, "fp16")
        ours, theirs = (_matches(each, rows) for each in (directory, exact))
        cost, error = f1_cost(ours, theirs)
        keep = limit is None or cost - error <= limit
        if not keep:
            shutil.rmtree(directory / "openvino")
            shutil.copytree(exact / "openvino", directory / "openvino")
    print(
        f"int8 weights cost {cost:.2f} ± {error:.2f} points of F1 on {len(rows)} questions: "
        + ("kept" if keep else f"more than {limit}, so the CPU engine gets 16-bit weights (--int8-limit)"),
        flush=True,
    )
    return {"weights": "int8" if keep else "fp16", "int8_f1_cost": cost, "int8_f1_cost_error": error}


def copy_with_weights(artifact: Path, target: Path, weights: Weights) -> None:
    """Put into `target` what the CPU engine reads of an artifact, with other weights."""
    for file in artifact.glob("*.json"):
        shutil.copy(file, target)
    export_openvino(artifact, target / "openvino", weights)


def _matches(directory: Path, rows: Dataset) -> list[dict[str, float]]:
    with closing(LLM.load(directory, "openvino")) as llm:
        return asyncio.run(ask(llm, rows, with_context=True))[1]
