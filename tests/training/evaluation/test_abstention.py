from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.answering.answers import AnswerSettings
from training.evaluation.abstention import (
    MIN_FIT,
    Outcomes,
    bootstrap_error,
    coverage,
    fit_answer_settings,
    plot_selective_answering,
    squad2_metrics,
)
from training.evaluation.calibration import calibration_error, reliability


def simulated(count: int, seed: int = 0, distorted: bool = False) -> Outcomes:
    """Return outcomes whose probabilities are true, or else distorted: the log-odds are doubled and shifted."""
    generator = np.random.default_rng(seed)
    no_answer, likelihood = generator.uniform(0.01, 0.99, count), generator.uniform(0.01, 0.99, count)
    unanswerable = generator.random(count) < no_answer
    exact = ((generator.random(count) < likelihood) & ~unanswerable).astype(float)

    def distort(p: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(2 * np.log(p / (1 - p)) + 1))) if distorted else p

    contexts = [f"context {number // 5}" for number in range(count)]
    score = likelihood * (1 - no_answer)
    return Outcomes(unanswerable, exact, np.maximum(exact, 0.4 * ~unanswerable), distort(likelihood), score, distort(no_answer), contexts)


def test_the_metrics_of_a_model_that_knows_everything() -> None:
    unanswerable = np.array([True, False] * 10)
    right = (~unanswerable).astype(float)
    no_answer = np.where(unanswerable, 0.9, 0.1)
    contexts = [f"{number}" for number in range(20)]
    metrics = squad2_metrics(Outcomes(unanswerable, right, right, right, right, no_answer, contexts), 0.5)
    for name in ("exact_match", "f1", "best_exact_match", "best_f1", "has_answer_exact_match", "no_answer_exact_match"):
        assert metrics[name] == 100
    assert metrics["coverage_at_90"] == 100
    assert metrics["auc"] == 1
    assert metrics["exact_match_error"] == 0
    assert metrics["never_answering"] == metrics["always_answering"] == 50


def test_the_best_scores_are_no_worse_than_always_or_never_answering_and_the_threshold_reaches_them() -> None:
    outcomes = simulated(600)
    metrics = squad2_metrics(outcomes, 0.5)
    assert metrics["best_exact_match"] >= max(metrics["always_answering"], metrics["never_answering"], metrics["exact_match"])
    assert metrics["best_f1"] >= metrics["f1"]
    assert 100 * outcomes.exact_match_at(metrics["best_threshold"]).mean() == pytest.approx(metrics["best_exact_match"])
    assert metrics["questions"] == 600
    assert 0 < metrics["exact_match_error"] < 5


def test_each_threshold_has_the_share_of_questions_that_get_an_answer_and_of_right_answers() -> None:
    outcomes = simulated(600)
    points = squad2_metrics(outcomes, 0.5)["by_threshold"]
    assert [point["threshold"] for point in points] == pytest.approx(np.linspace(0, 1, 21).tolist())
    assert points[-1] == {"threshold": 1, "answered": 100, "right_answers": pytest.approx(100 * outcomes.exact_match.mean())}
    middle = points[10]
    declined = outcomes.no_answer > 0.5
    right = middle["answered"] * middle["right_answers"] / 100 + 100 * (declined & outcomes.unanswerable).mean()
    assert right == pytest.approx(100 * outcomes.exact_match_at(0.5).mean())


def test_the_bootstrap_draws_whole_contexts() -> None:
    values = [1.0] * 50 + [0.0] * 50
    apart = bootstrap_error(values, [str(n) for n in range(100)])
    together = bootstrap_error(values, [str(n // 10) for n in range(100)])
    assert apart == pytest.approx(0.05, rel=0.15)  # of 100 independent values
    assert together == pytest.approx(0.5 / 10**0.5, rel=0.15)  # of 10 contexts


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.floats(0.5, 1))
def test_the_covered_answers_reach_the_accuracy(answers: list[tuple[float, bool]], accuracy: float) -> None:
    confidence, correct = np.array([c for c, _ in answers]), np.array([float(r) for _, r in answers])
    count = round(coverage(confidence, correct, accuracy) * len(answers))
    order = np.argsort(-confidence, kind="stable")
    assert count == 0 or correct[order[:count]].mean() >= accuracy
    assert all(correct[order[:more]].mean() < accuracy for more in range(count + 1, len(answers) + 1))


def test_calibration_mends_distorted_probabilities_on_other_questions() -> None:
    settings = fit_answer_settings(simulated(4_000, seed=1, distorted=True))
    assert settings.unanswerable
    assert settings.right
    other = simulated(4_000, seed=2, distorted=True)
    for before, after, truth in (
        (other.no_answer, [settings.no_answer_probability(p) for p in other.no_answer], other.unanswerable),
        (
            other.likelihood,
            [settings.score(p, none) for p, none in zip(other.likelihood, other.no_answer, strict=True)],
            other.exact_match,
        ),
    ):
        errors = [calibration_error(reliability(list(values), list(truth.astype(float)))) for values in (before, after)]
        assert errors[1] < min(0.04, errors[0] / 2)
    answered = np.where(np.array([settings.no_answer_probability(p) for p in other.no_answer]) > settings.no_answer_threshold, 0, 1)
    chosen = np.where(answered, other.f1, other.unanswerable).mean()
    assert chosen > max(other.f1.mean(), other.unanswerable.mean())


def test_too_few_questions_leave_the_models_own_probabilities() -> None:
    few = simulated(MIN_FIT, seed=3)
    assert fit_answer_settings(few) == AnswerSettings(abstains=True, no_answer_threshold=0.5)


def test_the_plot_is_written(tmp_path: Path) -> None:
    titles = plot_selective_answering(tmp_path, squad2_metrics(simulated(100), 0.5)["selective"])
    assert [f"{name}.png" for name in titles] == [path.name for path in tmp_path.iterdir()]
