"""The part of a report that an evaluation fills: tables in Markdown, and plots."""

from pathlib import Path
from typing import Any

from training.evaluation.abstention import plot_selective_answering
from training.evaluation.calibration import calibration_error, plot_reliability
from training.figures import table


def answer_measures(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the names and values of the measures of `training.evaluation.answers.evaluate` that are not SQuAD 2.0's."""
    too_long = f", {metrics['too_long']} of all were too long for the model and count as wrong" if metrics["too_long"] else ""
    return [
        (
            "exact match, always answering",
            f"{metrics['exact_match']:.1f} ± {metrics['exact_match_error']:.1f} % of {metrics['questions']:,} test questions, "
            f"answered by {metrics['engine']}{too_long}",
        ),
        ("F1", f"{metrics['f1']:.1f} ± {metrics['f1_error']:.1f} %"),
        ("answers that are spans of their context", f"{metrics['span_share']:.1%}"),
        ("answers that ended before the length limit", f"{metrics['ended_share']:.1%}"),
        ("mean length of an answer", f"{metrics['mean_answer_words']:.1f} words"),
        (
            "calibration error",
            f"{calibration_error(metrics['reliability']):.1%}, the mean distance between score and share of exact answers",
        ),
    ]


def bits_per_byte_measure(metrics: dict[str, Any]) -> tuple[str, str]:
    """Return the name and the value of what tells whether a fine-tuned model has remained a language model."""
    verdict = "no worse than" if metrics["bits_per_byte"] <= metrics["base_bits_per_byte"] else "**worse than**"
    return (
        "bits per byte on held-out contexts",
        f"{metrics['bits_per_byte']:.4f}, {verdict} the base model's {metrics['base_bits_per_byte']:.4f}",
    )


def plot_answers(directory: Path, metrics: dict[str, Any]) -> dict[str, str]:
    """Draw the plots of the answers into `directory`. Returns each plot's title by its file name without `.png`."""
    plots = plot_reliability(directory, metrics["reliability"])
    return plots | plot_selective_answering(directory, metrics["squad2"]["selective"]) if "squad2" in metrics else plots


def squad2_sections(metrics: dict[str, Any]) -> list[str]:
    """Return the section with SQuAD 2.0's metrics, if there were unanswerable questions."""
    return [_squad2_section(metrics["squad2"])] if "squad2" in metrics else []


def _squad2_section(metrics: dict[str, Any]) -> str:

    def value(name: str, digits: int = 1) -> str:
        return f"{metrics[name]:.{digits}f} ± {metrics[f'{name}_error']:.{digits}f}"

    rows = [
        ("area under the ROC curve of the no-answer probability", value("auc", 3)),
        (f"exact match, declining above {metrics['threshold']:.2f}, %", value("exact_match")),
        ("F1, %", value("f1")),
        ("… answerable questions: exact match", value("has_answer_exact_match")),
        ("… unanswerable questions: declined", value("no_answer_exact_match")),
        (f"exact match with the best threshold, {metrics['best_threshold']:.2f}", value("best_exact_match")),
        ("F1 with the best threshold", value("best_f1")),
        ("exact match, always answering", value("always_answering")),
        ("exact match, never answering", value("never_answering")),
        ("share of the questions that can be answered or declined with 80 % right", value("coverage_at_80")),
        ("… with 90 % right", value("coverage_at_90")),
    ]
    heading = f"## Knowing when not to answer\n\n{metrics['questions']:,} test questions, {metrics['unanswerable']:,} of them unanswerable."
    return f"{heading} Errors are standard errors (bootstrap over contexts).\n\n" + table(("measure", "value"), rows)
