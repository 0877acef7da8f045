"""Evaluate a model that is trained already, through the engine that serves it on this machine."""

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from datasets import Dataset

from models.llm import SETTINGS_FILE
from training.config import Config
from training.data.selection import draw
from training.errors import TrainingError, first_line
from training.evaluation.answers import evaluate
from training.evaluation.report import answer_measures, plot_answers, squad2_sections
from training.export.artifact import open_artifact, save_artifact
from training.figures import table
from training.fine_tuning.base_model import load_base
from training.run import create_directory, display_name, print_answer_metrics

EVALUATION = "evaluation"
"""The subdirectory of the output directory for the metrics and the report."""


def evaluate_only(test: Dataset, config: Config) -> None:
    """Evaluate `config.base_model` on `config.eval_examples` test questions; print the metrics and write them with a report.

    The model is an artifact, or a Hub id or a Hugging Face directory of a causal LM. The latter is exported as training would export it,
    and always answers. Raises TrainingError if it cannot be loaded.
    """
    directory, output = Path(config.base_model).expanduser(), config.output_dir / EVALUATION
    rows = draw(test, config.eval_examples, config.seed)
    if (directory / SETTINGS_FILE).exists():
        create_directory(output)
        metrics = _evaluate_artifact(directory, rows)
    else:
        try:
            model, tokenizer = load_base(config.base_model, config.max_length)
        except TrainingError as error:
            raise TrainingError(f"--eval-only: {error}") from error
        create_directory(output)
        with tempfile.TemporaryDirectory() as scratch:
            save_artifact(model, tokenizer, Path(scratch) / "llm", config.prompt)
            metrics = _evaluate_artifact(Path(scratch) / "llm", rows)
    print_answer_metrics(metrics)
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    _write_report(output, display_name(config.base_model), display_name(config.dataset), metrics)
    print("evaluation:", output / "report.md")


def _evaluate_artifact(directory: Path, rows: Dataset) -> dict[str, Any]:
    with ExitStack() as stack:
        try:
            llm = stack.enter_context(open_artifact(directory))
        except Exception as error:  # of many types: files that are missing or broken, an engine that does not start
            raise TrainingError(f"--eval-only {directory}: the artifact cannot be loaded ({first_line(error)})") from error
        return {"engine": type(llm.engine).__name__} | evaluate(llm, rows)


def _write_report(output: Path, model: str, dataset: str, metrics: dict[str, Any]) -> None:
    sections = [
        f"# {model} evaluated on {dataset}",
        table(("measure", "value"), answer_measures(metrics)),
        *squad2_sections(metrics),
        *(f"![{title}]({name}.png)" for name, title in plot_answers(output, metrics).items()),
    ]
    (output / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
