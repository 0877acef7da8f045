"""Sampling the next token from its distribution, for the LSTM; the CUDA engine's sampling is tested against it."""

import numpy as np
from numpy.typing import NDArray

from models.base import SamplingParams

NUCLEUS_CANDIDATES = 4096
"""Tokens that are sorted first to find a nucleus. Sorting all of a large vocabulary takes milliseconds and is rarely needed."""


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the natural log-probabilities of a vector of logits; `-inf` stays `-inf`."""
    shifted = logits.astype(np.float64) - logits.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def sample(logprobs: NDArray[np.float64], params: SamplingParams, generator: np.random.Generator) -> int:
    """Return the index of the next token, given log-probabilities of shape (vocabulary,).

    Temperature is applied first, then top-k, then top-p among the remaining tokens, as in transformers.
    """
    best = logprobs.argmax()
    if params.greedy:
        return int(best)
    weights = np.exp((logprobs - logprobs[best]) / params.temperature)
    kept = candidates(weights, params.top_k, params.top_p)
    cumulative = weights[kept].cumsum()
    place = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    return int(kept[min(place, len(kept) - 1)])


def candidates(weights: NDArray[np.float64], top_k: int, top_p: float) -> NDArray[np.int64]:
    """Return the indices of the tokens that top-k and top-p keep; in descending order of weight if either is set."""
    size = len(weights)
    if not top_k and top_p == 1:
        return np.arange(size)
    for count in [top_k] if top_k else [NUCLEUS_CANDIDATES, size]:
        order = np.arange(size) if count >= size else np.argpartition(weights, -count)[-count:]
        order = order[np.argsort(-weights[order], kind="stable")]
        cumulative = weights[order].cumsum()
        target = top_p * (cumulative[-1] if top_k else weights.sum())
        if cumulative[-1] >= target:
            break
    return order[: int(np.searchsorted(cumulative, target)) + 1]
