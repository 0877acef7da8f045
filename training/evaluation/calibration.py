"""Calibration: whether the score of an answer is the probability that the answer is right."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from training.figures import save_figure


def reliability(scores: Sequence[float], correct: Sequence[float], bins: int = 10) -> list[dict[str, float]]:
    """Compute a reliability diagram: sort the answers by score and cut them into `bins` of equal size.

    Returns for each bin the mean score (`score`), the share of correct answers (`correct`) and the number of `answers`.
    (DeGroot & Fienberg 1983, https://doi.org/10.2307/2987588; bins of equal size as in Nguyen & O'Connor 2015,
    https://arxiv.org/abs/1508.05154.)
    """
    pairs = np.array([scores, correct]).T[np.argsort(scores, kind="stable")]
    parts = [part for part in np.array_split(pairs, bins) if len(part)]
    return [{"score": float(part[:, 0].mean()), "correct": float(part[:, 1].mean()), "answers": len(part)} for part in parts]


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Return the expected calibration error: the mean distance between score and share of correct answers, 0 at best."""
    return sum(part["answers"] * abs(part["score"] - part["correct"]) for part in bins) / sum(part["answers"] for part in bins)


def plot_reliability(directory: Path, bins: list[dict[str, float]]) -> dict[str, str]:
    """Draw the share of exact answers by score into `reliability.png`. Returns the plot's title, keyed by its file name without `.png`."""
    figure, axes = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfect calibration")
    axes.plot([part["score"] for part in bins], [part["correct"] for part in bins], marker="o", label="answers, a tenth each")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend()
    title = "Share of exact answers by score"
    save_figure(figure, axes, title, "score", directory / "reliability.png")
    return {"reliability": title}
