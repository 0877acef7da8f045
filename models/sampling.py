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

    Temperature comes first, then top-k, then top-p among what is left, as in transformers. Ties keep the lower index.
    """
    if params.greedy:
        return int(logprobs.argmax())
    scaled = logprobs / params.temperature
    if params.top_k and params.top_k < len(scaled):
        order = np.argpartition(-scaled, params.top_k - 1)[: params.top_k]
        order = order[np.lexsort((order, -scaled[order]))]
    else:
        order = np.argsort(-scaled, kind="stable")
    mass = np.exp(scaled[order] - scaled[order[0]]).cumsum()
    if params.top_p < 1:
        kept = int(np.searchsorted(mass, params.top_p * mass[-1])) + 1
        order, mass = order[:kept], mass[:kept]
    drawn = int(np.searchsorted(mass, generator.random() * mass[-1], side="right"))
    return int(order[min(drawn, len(order) - 1)])
