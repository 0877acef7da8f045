"""The text of the comparison's page agrees with its figures."""

from pathlib import Path
from typing import Any

import pytest

from training.comparison.report import LABELS, write_comparison_report


def written_page(tmp_path: Path, bits: dict[str, float], curve: list[tuple[float, float]]) -> str:
    models = {
        name: {
            "bits_per_byte": value,
            "word_perplexity": 100.0,
            "parameters": 1_000,
            "artifact_bytes": None if name == "unigram" else 2_000_000,
            "training_seconds": None if name in ("unigram", "base") else 12.0,
            "tokens_per_second": 100.0,
            "latency_seconds": 0.01,
            "samples": [" a | b\nc"],
        }
        for name, value in bits.items()
    }
    epochs = [{"words": 10 * n, "train": train, "held_out": held_out} for n, (train, held_out) in enumerate(curve, 1)]
    best = 1 + min(range(len(epochs)), key=lambda n: epochs[n]["held_out"]) if epochs else 0
    metrics: dict[str, dict[str, Any]] = {"bigram": {}}
    if epochs:
        metrics["rnn"] = {"words": 10 * len(epochs), "epochs": len(epochs), "best_epoch": best, "curve": epochs}
    comparison = {"contexts": 3, "bytes": 900, "words": 150, "prompts": ["The"], "seed": 0, "machine": "CPU", "models": models}
    for name in metrics:
        (tmp_path / name).mkdir()
    return write_comparison_report(tmp_path, comparison, metrics).read_text()


def test_the_page_states_the_order_if_it_holds(tmp_path: Path) -> None:
    text = written_page(tmp_path, dict(zip(LABELS, (2.2, 1.8, 1.7, 1.1, 1.0), strict=True)), [(5.5, 5.6), (5.0, 5.1)])
    assert "unigram 2.200 > bigram 1.800 > LSTM 1.700 > base LLM 1.100 > fine-tuned LLM 1.000." in text
    assert "does not hold" not in text
    assert "**The** a \\| b c |" in text
    written = {"comparison.md", "comparison.json", "bits_per_byte.png", "speed.png", "lstm.png"}
    for directory in (tmp_path, tmp_path / "bigram", tmp_path / "rnn"):
        assert {path.name for path in (directory / "comparison").iterdir()} == written


def test_the_page_says_why_the_order_does_not_hold(tmp_path: Path) -> None:
    text = written_page(tmp_path, {"unigram": 2.2, "bigram": 1.8, "rnn": 1.9}, [(5.5, 5.6)])
    assert "does not hold between the bigram (1.800) and the LSTM (1.900). An LSTM needs more text" in text
    assert "lstm.png" not in text


@pytest.mark.parametrize(
    ("curve", "advice"),
    [
        ([(5.5, 5.6), (5.0, 5.2)], "more minutes would help"),
        ([(5.5, 5.6), (4.0, 5.2)], "more minutes help less and less"),
        ([(5.5, 5.6), (4.0, 5.7)], "more dropout, not more minutes"),
    ],
    ids=["still learning", "overfitting", "past its best"],
)
def test_the_page_says_how_to_improve_the_lstm(tmp_path: Path, curve: list[tuple[float, float]], advice: str) -> None:
    assert advice in written_page(tmp_path, {"bigram": 1.8, "rnn": 1.7}, curve)


def test_a_page_without_an_lstm_does_not_mention_it(tmp_path: Path) -> None:
    assert "LSTM" not in written_page(tmp_path, {"unigram": 2.2, "bigram": 1.8}, [])
