"""The model card: its metadata as the Hub's library reads them, and its code as a reader runs it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from models.answering.prompts import question_prompt, undecided_prompt
from models.llm import SETTINGS_FILE
from tests.conftest import Trained
from training.config import Config
from training.export.model_card import write_model_card
from training.run import read_metrics

ROWS = {"train_rows": 87599, "test_rows": 10570, "fingerprint": "0123456789abcdef"}


def test_the_card_of_a_run_has_its_metrics_and_names_nothing_that_is_not_known(trained: Trained) -> None:
    card = ModelCard.load(trained.output / "llm/README.md")
    metrics = read_metrics(trained.output)["llm"]
    values = sorted((result.metric_type, result.metric_value) for result in card.data.eval_results)
    of_all = [(name, metrics[name]) for name in ("exact_match", "f1", "bits_per_byte")]
    of_squad2 = [(name, metrics["squad2"][name]) for name in ("exact_match", "f1")]
    assert values == sorted((name, round(value, 4)) for name, value in of_all + of_squad2)
    assert {result.dataset_name for result in card.data.eval_results} == {"quickstart"}
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    # The base model and the data set are local, and nobody has stated a licence.
    assert (card.data.base_model, card.data.datasets, card.data.license) == (None, None, None)
    assert "866 training and 234 test questions" in card.text
    assert not re.search(r"\{[{%]|None|Undefined", card.text)
    links = re.findall(r"\]\((.*?)\)", card.text)
    assert links
    assert all((trained.output / "llm" / link).exists() for link in links)


def run_code(card: ModelCard, directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the card's Python code in `directory`, and return its variables."""
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    monkeypatch.chdir(directory)
    variables: dict[str, Any] = {}
    exec(code, variables)
    return variables


def test_the_cards_code_asks_as_the_service_does(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = ModelCard.load(trained.output / "llm/README.md")
    found = run_code(card, trained.output / "llm", monkeypatch)
    assert found["prompt"] == undecided_prompt(found["question"], found["context"])
    assert found["output"].shape[1] > found["inputs"]["input_ids"].shape[1]
    assert capsys.readouterr().out.strip()


def test_a_card_names_the_hubs_sources_and_a_model_that_always_answers_gets_the_whole_prompt(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {name: value for name, value in read_metrics(trained.output)["llm"].items() if name != "squad2"}
    config = Config(unanswerable_share=0, prompt="question-twice")
    write_model_card(tmp_path, "openai-community/gpt2", "rajpurkar/squad", ROWS, config, metrics)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.base_model, card.data.datasets) == ("openai-community/gpt2", ["rajpurkar/squad"])
    assert [result.metric_type for result in card.data.eval_results] == ["exact_match", "f1", "bits_per_byte"]
    assert SETTINGS_FILE not in card.text
    found = run_code(card, trained.output / "llm", monkeypatch)
    assert found["prompt"] == question_prompt(found["question"], found["context"], "question-twice")
    assert json.dumps(question_prompt("{question}")) in card.text
