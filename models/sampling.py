"""Choose the next token from logits: the one sampling function of every model that runs in this process."""

import numpy as np
from numpy.typing import NDArray

from models.base import SamplingParams


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Natural log-probabilities of a vector of logits; `-inf` stays `-inf`."""
    shifted = logits.astype(np.float64) - logits.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def sample(logprobs: NDArray[np.float64], params: SamplingParams, generator: np.random.Generator) -> int:
    """The index of the next token, from log-probabilities of shape (vocabulary,).

    Temperature comes first, then top-k, then top-p among what is left, as in transformers.
    """
    best = logprobs.argmax()
    if params.greedy:
        return int(best)
    weights = np.exp((logprobs - logprobs[best]) / params.temperature)
    order = _kept(weights, params.top_k, params.top_p)
    mass = weights[order].cumsum()
    drawn = int(np.searchsorted(mass, generator.random() * mass[-1], side="right"))
    return int(order[min(drawn, len(order) - 1)])


def _kept(weights: NDArray[np.float64], top_k: int, top_p: float) -> NDArray[np.int64]:
    """The tokens that may be drawn. A nucleus is mostly small: the few thousand heaviest tokens are sorted first, all of
    them (milliseconds for a large vocabulary) only where those do not reach `top_p`.
    """
    size = len(weights)
    if not top_k and top_p == 1:
        return np.arange(size)
    for count in [top_k] if top_k else [4096, size]:
        order = np.arange(size) if count >= size else np.argpartition(weights, -count)[-count:]
        order = order[np.argsort(-weights[order], kind="stable")]
        mass = weights[order].cumsum()
        target = top_p * (mass[-1] if top_k else weights.sum())
        if mass[-1] >= target:
            break
    return order[: int(np.searchsorted(mass, target)) + 1]
