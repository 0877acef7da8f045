"""Fit each word model, save it, and measure it on held-out text."""

import time
from pathlib import Path
from typing import Any

from models.bigram import Bigram
from models.rnn import LSTM
from training.evaluation.bits_per_byte import word_model_metrics
from training.word_models.lstm import fit_lstm

RNN_SHARE = 0.15
"""The LSTM's share of the training time if the LLM is trained too. The LLM gets the time that the LSTM does not use."""
RNN_EPOCHS = 40
"""The LSTM's maximum number of epochs. Training may stop earlier, and the best epoch's weights are kept."""


def fit_bigram(train: list[str], test: list[str], directory: Path) -> dict[str, Any]:
    """Fit the bigram on `train` and save it. Returns its metrics on `test`."""
    started = time.perf_counter()
    model = Bigram.fit(train)
    seconds = time.perf_counter() - started
    model.save(directory)
    return word_model_metrics(model, test) | {"vocabulary": len(model.vocabulary), "seconds": seconds}


def fit_rnn(train: list[str], test: list[str], directory: Path, seconds: float | None, seed: int) -> dict[str, Any]:
    """Fit the LSTM on `train` within `seconds` and save it. Returns the metrics of the saved model on `test`."""
    statistics = fit_lstm(train, directory, epochs=RNN_EPOCHS, seconds=seconds, seed=seed)
    return word_model_metrics(LSTM.load(directory), test) | statistics
