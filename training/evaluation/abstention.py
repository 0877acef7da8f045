"""How well a model knows that a context does not answer a question: SQuAD 2.0's metrics, and answering only when sure.

Each metric has a standard error from a bootstrap over contexts: questions about one context are not independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from models.answering.answers import AnswerSettings, LogisticMap, log_odds
from training.figures import save_figure

RESAMPLES = 500
MIN_FIT = 40
"""Questions of each kind that a calibration needs at least: answerable and not, answered rightly and not."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outcomes:
    """What a model that always answers said to some questions. Each array has one element for each question."""

    unanswerable: NDArray[np.bool_]
    exact_match: Array
    """From 0 to 1; 0 for an unanswerable question, which has no right answer."""
    f1: Array
    """As `exact_match`."""
    likelihood: Array
    """See `models.answering.answers.Answer`."""
    score: Array
    """See `models.answering.answers.Answer`."""
    no_answer: Array
    """The probability that the context does not tell; see `models.answering.answers.Answer`."""
    contexts: Sequence[str]

    @property
    def answerable(self) -> NDArray[np.bool_]:
        """The opposite of `unanswerable`."""
        return ~self.unanswerable

    def exact_match_at(self, threshold: float) -> Array:
        """Return the exact match if the model declines above `threshold`, which is right where the question is unanswerable."""
        return np.where(self.no_answer > threshold, self.unanswerable, self.exact_match)

    def f1_at(self, threshold: float) -> Array:
        """Return the F1 if the model declines above `threshold`."""
        return np.where(self.no_answer > threshold, self.unanswerable, self.f1)

    def confidence_at(self, threshold: float) -> Array:
        """Return the score that the service gives if the model declines above `threshold`."""
        return np.where(self.no_answer > threshold, self.no_answer, self.score)


def squad2_metrics(outcomes: Outcomes, threshold: float) -> dict[str, Any]:
    """Return SQuAD 2.0's metrics in percent, at `threshold` and at the best ones (Rajpurkar et al., arXiv:1806.03822), with errors.

    Also returns the area under the ROC curve of `no_answer` (0.5 is chance) and, for answers and refusals in the order of their scores,
    which share can be given so that 80 or 90 % are right (`coverage_at_80`, `coverage_at_90`), and the curve (`selective`). `by_threshold`
    tells for thresholds from 0 to 1 which share of the questions the model answers, and which share of those answers is right.
    """
    exact_match, f1 = outcomes.exact_match_at(threshold), outcomes.f1_at(threshold)
    has, none = outcomes.answerable, outcomes.unanswerable
    best_threshold = _best_threshold(outcomes, outcomes.exact_match_at)
    best_f1 = outcomes.f1_at(_best_threshold(outcomes, outcomes.f1_at))
    confidence = outcomes.confidence_at(threshold)
    metrics: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "exact_match": lambda rows: 100 * float(exact_match[rows].mean()),
        "f1": lambda rows: 100 * float(f1[rows].mean()),
        "has_answer_exact_match": lambda rows: _percent(exact_match, rows, has),
        "has_answer_f1": lambda rows: _percent(f1, rows, has),
        "no_answer_exact_match": lambda rows: _percent(exact_match, rows, none),
        "best_exact_match": lambda rows: 100 * float(outcomes.exact_match_at(best_threshold)[rows].mean()),
        "best_f1": lambda rows: 100 * float(best_f1[rows].mean()),
        "always_answering": lambda rows: 100 * float(outcomes.exact_match[rows].mean()),
        "never_answering": lambda rows: 100 * float(none[rows].mean()),
        "auc": lambda rows: _auc(none[rows], outcomes.no_answer[rows]),
        "coverage_at_80": lambda rows: 100 * coverage(confidence[rows], exact_match[rows], 0.8),
        "coverage_at_90": lambda rows: 100 * coverage(confidence[rows], exact_match[rows], 0.9),
    }
    samples = _resamples(outcomes.contexts)
    everything = np.arange(len(none))
    result: dict[str, Any] = {"questions": len(none), "unanswerable": int(none.sum()), "threshold": threshold}
    result["best_threshold"] = best_threshold
    for name, metric in metrics.items():
        result[name] = metric(everything)
        result[f"{name}_error"] = float(np.nanstd([metric(rows) for rows in samples]))
    return result | {"selective": _selective_answering(confidence, exact_match), "by_threshold": _by_threshold(outcomes)}


def bootstrap_error(values: Sequence[float], contexts: Sequence[str]) -> float:
    """Return the standard error of the mean of `values`, which belong to `contexts`."""
    array = np.asarray(values, dtype=np.float64)
    return float(np.std([array[rows].mean() for rows in _resamples(contexts)]))


def coverage(confidence: Array, correct: Array, accuracy: float) -> float:
    """Return the largest share of the answers, the surest first, that has at least this accuracy."""
    order = np.argsort(-confidence, kind="stable")
    reached = np.flatnonzero(_accuracies(correct[order]) >= accuracy)
    return float(reached[-1] + 1) / len(order) if len(reached) else 0.0


def fit_answer_settings(outcomes: Outcomes) -> AnswerSettings:
    """Choose the threshold with the best F1, and calibrate both probabilities, on questions that the model was not trained on.

    With too few questions of a kind, the probability stays the model's own; the threshold is then one half.
    """
    none = outcomes.unanswerable
    unanswerable = _fit([outcomes.no_answer], none)
    right = _fit([outcomes.likelihood, 1 - outcomes.no_answer], outcomes.exact_match == 1)
    if unanswerable is None:
        return AnswerSettings(abstains=True, no_answer_threshold=0.5, right=right)
    calibrated = np.array([unanswerable(p) for p in outcomes.no_answer])
    outcomes = replace(outcomes, no_answer=calibrated)
    return AnswerSettings(
        abstains=True, no_answer_threshold=_best_threshold(outcomes, outcomes.f1_at), unanswerable=unanswerable, right=right
    )


def _fit(probabilities: Sequence[Array], truth: NDArray[np.bool_]) -> LogisticMap | None:
    if min(truth.sum(), (~truth).sum()) < MIN_FIT:
        return None
    features = np.stack([[log_odds(p) for p in values] for values in probabilities], axis=1)
    model = LogisticRegression(C=1e3).fit(features, truth)
    return LogisticMap(intercept=float(model.intercept_[0]), weights=tuple(model.coef_[0].tolist()))


def _selective_answering(confidence: Array, correct: Array, points: int = 50) -> list[dict[str, float]]:
    """Return the accuracy of the surest answers, in percent, for each share of them (`coverage`)."""
    accuracies = _accuracies(correct[np.argsort(-confidence, kind="stable")])
    counts = np.unique(np.linspace(1, len(accuracies), points).round().astype(int))
    return [{"coverage": 100 * float(count) / len(accuracies), "accuracy": 100 * float(accuracies[count - 1])} for count in counts]


def _by_threshold(outcomes: Outcomes, points: int = 21) -> list[dict[str, float]]:
    """Return the share of questions that get an answer, and of right ones among these answers, in percent, at each threshold."""
    rows = []
    for threshold in np.linspace(0, 1, points).round(2).tolist():
        answered = outcomes.no_answer <= threshold
        right = 100 * float(outcomes.exact_match[answered].mean()) if answered.any() else 0.0
        rows.append({"threshold": threshold, "answered": 100 * float(answered.mean()), "right_answers": right})
    return rows


def plot_selective_answering(directory: Path, points: list[dict[str, float]]) -> dict[str, str]:
    """Draw the accuracy of the surest answers and refusals by their share into `selective.png`. Returns the plot's title by its name."""
    accuracies = [point["accuracy"] for point in points]
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot([point["coverage"] for point in points], accuracies, label="answers and refusals, the surest first")
    for level in (80, 90):
        axes.axhline(level, color="grey", linestyle=":", linewidth=0.8)
    axes.set(xlim=(0, 100), ylim=(min(50.0, *accuracies), 101), ylabel="right, %")
    axes.legend()
    title = "Selective answering: accuracy by coverage"
    save_figure(figure, axes, title, "answered or declined, % of the questions", directory / "selective.png")
    return {"selective": title}


def _accuracies(correct: Array) -> Array:
    """Return the mean of the first 1, 2, … elements."""
    return np.cumsum(correct) / np.arange(1, len(correct) + 1)


def _percent(values: Array, rows: NDArray[np.int64], mask: NDArray[np.bool_]) -> float:
    chosen = rows[mask[rows]]
    return 100 * float(values[chosen].mean()) if len(chosen) else float("nan")


def _auc(unanswerable: NDArray[np.bool_], no_answer: Array) -> float:
    return float(roc_auc_score(unanswerable, no_answer)) if 0 < unanswerable.sum() < len(unanswerable) else float("nan")


def _best_threshold(outcomes: Outcomes, at: Callable[[float], Array]) -> float:
    """Return the threshold with the best mean of `at(threshold)`."""
    candidates = [0.0, *np.unique(outcomes.no_answer).tolist(), 1.0]
    return float(max(candidates, key=lambda threshold: at(threshold).mean()))


def _resamples(contexts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the rows of `RESAMPLES` random samples of whole contexts, with replacement."""
    _, groups = np.unique(np.asarray(contexts, dtype=object).astype(str), return_inverse=True)
    rows_of = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    generator = np.random.default_rng(0)
    return [np.concatenate([rows_of[g] for g in generator.integers(len(rows_of), size=len(rows_of))]) for _ in range(RESAMPLES)]
