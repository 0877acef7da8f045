"""Evaluating models that are trained already: `train.py --eval-only`."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tests.conftest import Trained
from training.config import Config
from training.data.squad import load_splits
from training.errors import TrainingError
from training.evaluation.answers import TOO_LONG, outcomes
from training.fine_tuning.eval_only import evaluate_only


def evaluate(model: Path, test: Dataset, output: Path) -> dict[str, Any]:
    evaluate_only(test, Config(base_model=str(model), eval_examples=None, output_dir=output, dataset="data/quickstart"))
    metrics: dict[str, Any] = json.loads((output / "evaluation/metrics.json").read_text())
    return metrics


@pytest.fixture(scope="module")
def test_rows() -> Dataset:
    """Ten answerable and ten unanswerable questions."""
    rows = load_splits("data/quickstart").test
    indices: dict[bool, list[int]] = {True: [], False: []}
    for index, answers in enumerate(rows["answers"]):
        indices[bool(answers["text"])].append(index)
    return rows.select(indices[True][:10] + indices[False][:10])


def test_an_artifact_gets_the_metrics_and_the_report_of_a_training_run(trained: Trained, test_rows: Dataset, tmp_path: Path) -> None:
    metrics = evaluate(trained.output / "llm", test_rows, tmp_path)
    assert metrics["questions"] == 10
    assert metrics["squad2"]["unanswerable"] == 10
    settings = json.loads((trained.output / "llm/trigen.json").read_text())
    assert metrics["squad2"]["threshold"] == settings["answers"]["no_answer_threshold"]
    report = (tmp_path / "evaluation/report.md").read_text()
    assert report.startswith("# llm evaluated on quickstart\n")
    assert "area under the ROC curve" in report
    assert {path.name for path in (tmp_path / "evaluation").iterdir()} == {"metrics.json", "report.md", "reliability.png", "selective.png"}


def test_a_hugging_face_directory_always_answers(tiny_base: Path, test_rows: Dataset, tmp_path: Path) -> None:
    squad2 = evaluate(tiny_base, test_rows, tmp_path)["squad2"]
    assert squad2["threshold"] == 1
    assert squad2["no_answer_exact_match"] == 0
    assert squad2["exact_match"] == squad2["always_answering"]
    assert 0 <= squad2["auc"] <= 1  # of the probability that the answer is wrong


def test_questions_that_are_too_long_count_as_wrong(trained: Trained, test_rows: Dataset, tmp_path: Path) -> None:
    too_long = test_rows.select(range(2)).map(lambda row: {"context": 400 * row["context"]})
    rows = Dataset.from_list([*test_rows, *too_long], features=test_rows.features)
    metrics = evaluate(trained.output / "llm", rows, tmp_path)
    assert metrics["too_long"] == 2
    assert metrics["questions"] == 12
    assert "2 of all were too long" in (tmp_path / "evaluation/report.md").read_text()


def test_a_question_that_is_too_long_is_wrong_whether_it_is_answerable_or_not(test_rows: Dataset) -> None:
    found = outcomes([TOO_LONG] * len(test_rows), [{"exact_match": 0.0, "f1": 0.0}] * len(test_rows), test_rows)
    assert not any(found.exact_match_at(threshold).any() or found.f1_at(threshold).any() for threshold in (0.0, 0.5, 1.0))


def test_a_broken_artifact_is_named(trained: Trained, test_rows: Dataset, tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm/trigen.json").write_text((trained.output / "llm/trigen.json").read_text())
    with pytest.raises(TrainingError, match=r"--eval-only .*llm: the artifact cannot be loaded"):
        evaluate(tmp_path / "llm", test_rows, tmp_path)


def test_a_model_that_is_not_there_is_named(test_rows: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"--eval-only: base model .*nowhere: no such directory"):
        evaluate(tmp_path / "nowhere", test_rows, tmp_path)
