"""Each of the word models from its data to its artifact and its metrics."""

import time
from pathlib import Path
from typing import Any

from models.bigram import Bigram
from models.rnn import LSTM
from training.evaluation.bits_per_byte import word_model_metrics
from training.word_models.lstm import fit_lstm

RNN_SHARE, RNN_EPOCHS = 0.15, 40
"""The LSTM's share of the minutes where the LLM is trained too, and its epochs at most: it keeps the best and stops early, and what
it leaves of its share is the LLM's."""


def fit_bigram(train: list[str], test: list[str], directory: Path) -> dict[str, Any]:
    """Count, save, and measure on held-out text."""
    began = time.perf_counter()
    model = Bigram.fit(train)
    seconds = time.perf_counter() - began
    model.save(directory)
    return word_model_metrics(model, test) | {"vocabulary": len(model.vocabulary), "seconds": seconds}


def fit_rnn(train: list[str], test: list[str], directory: Path, seconds: float | None, seed: int) -> dict[str, Any]:
    """Fit the LSTM within `seconds`, or until it becomes no better, and measure on held-out text what is served."""
    fit = fit_lstm(train, directory, epochs=RNN_EPOCHS, seconds=seconds, seed=seed)
    return word_model_metrics(LSTM.load(directory), test) | fit
