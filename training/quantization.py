"""Whether the CPU engine gets int8 weights: what they cost in answers is measured for each model, not assumed."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset

from models.llm import LLM
from training.evaluation import evaluate
from training.export import export_openvino


def choose_weights(directory: Path, rows: Dataset, limit: float | None) -> dict[str, Any]:
    """Keep an artifact's int8 weights where their F1 on `rows` is at most `limit` points below that of 16-bit weights, else put
    these in their place; None keeps int8 whatever it costs. Says so, and returns which it is and what int8 costs, in points.
    """
    with tempfile.TemporaryDirectory() as scratch:
        exact = Path(scratch)
        for file in directory.glob("*.json"):
            shutil.copy(file, exact)
        export_openvino(directory, exact / "openvino", "fp16")
        ours, theirs = (_scores(each, rows) for each in (directory, exact))
        costs = {f"int8_{name}_cost": theirs[name] - ours[name] for name in ("exact_match", "f1")}
        keep = limit is None or costs["int8_f1_cost"] <= limit
        if not keep:
            shutil.rmtree(directory / "openvino")
            shutil.copytree(exact / "openvino", directory / "openvino")
    print(
        f"int8 weights cost {costs['int8_f1_cost']:.2f} points of F1 on {len(rows)} questions: "
        + ("kept" if keep else f"more than {limit}, so the CPU engine gets 16-bit weights (--int8-limit)"),
        flush=True,
    )
    return {"weights": "int8" if keep else "fp16"} | costs


def _scores(directory: Path, rows: Dataset) -> dict[str, Any]:
    llm = LLM.load(directory, "openvino")
    try:
        return evaluate(llm, rows)
    finally:
        llm.close()
