"""Each of the word models from its data to its artifact and its metrics."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from models.bigram import Bigram
from models.words import BOUNDARY, UNKNOWN, tokenize
from training.lstm import fit_lstm

RNN_SHARE, RNN_EPOCHS = 0.15, 20
"""The LSTM's share of the minutes where the LLM is trained too, and its epochs at most: it keeps the best and stops early, and what
it leaves of its share is the LLM's."""


def fit_bigram(train: list[str], test: list[str], directory: Path) -> dict[str, Any]:
    """Count, save, and measure the perplexity on held-out text, over the words that training has met."""
    began = time.perf_counter()
    model = Bigram.fit(train)
    seconds = time.perf_counter() - began
    model.save(directory)
    ids = np.array([id for text in test for id in (BOUNDARY, *model.vocabulary.encode(tokenize(text)))] + [BOUNDARY])
    known = ids[1:] != UNKNOWN
    perplexity = math.exp(-model.logprobs(ids)[known].mean())
    return {"perplexity": perplexity, "unknown_share": float(1 - known.mean()), "vocabulary": len(model.vocabulary), "seconds": seconds}


def fit_rnn(train: list[str], test: list[str], directory: Path, seconds: float | None, seed: int) -> dict[str, Any]:
    """Fit the LSTM within `seconds`, or until it becomes no better."""
    return fit_lstm(train, test, directory, epochs=RNN_EPOCHS, seconds=seconds, seed=seed)
