"""Sampling the next token from its distribution, for the LSTM; the CUDA engine's sampling is tested against it."""

import numpy as np
from numpy.typing import NDArray

from models.base import SamplingParams

NUCLEUS_CANDIDATES = 4096
"""Tokens that are sorted first to find a nucleus. Sorting all of a large vocabulary takes milliseconds and is rarely needed."""
REJECTIONS = 8
"""Draws outside the nucleus before it is sorted after all."""
REJECTION_TOP_P = 0.5
"""Below this `top_p`, draws would often be rejected, and sorting is faster."""


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
    return _sample_sorted(np.exp((logprobs - logprobs[best]) / params.temperature), params, generator)


def sample_from_weights(
    weights: NDArray[np.floating], sums: NDArray[np.floating], params: SamplingParams, generator: np.random.Generator
) -> int:
    """Return the index of the next token as `sample` does, mostly without sorting and without adding up all weights.

    `weights`, shape (n,), is proportional to the probabilities after temperature, and `sums`, shape (groups,), has the sum of each
    n / groups consecutive weights. For top-p, a token is drawn from all tokens until one is in the nucleus, which gives the tokens of the
    nucleus their proportions (rejection sampling).
    """
    if params.greedy:
        return int(weights.argmax())
    if params.top_k or params.top_p < REJECTION_TOP_P:
        return _sample_sorted(weights, params, generator)
    cumulative, size = sums.cumsum(dtype=np.float64), len(weights) // len(sums)
    for _ in range(REJECTIONS):
        group, share = _place(cumulative, generator.random())
        within, _ = _place(weights[group * size : (group + 1) * size].cumsum(dtype=np.float64), share)
        index = group * size + within
        if params.top_p == 1 or _before(weights, index) < params.top_p * cumulative[-1]:
            return index
    return _sample_sorted(weights, params, generator)


def _place(cumulative: NDArray[np.float64], share: float) -> tuple[int, float]:
    """Return the index of the interval that contains `share`, from 0 to 1, of the whole, and the share of that interval before it."""
    position = share * cumulative[-1]
    # Rounding must not lead to an interval of width 0: the last one of some width is the first to reach the end.
    index = min(int(cumulative.searchsorted(position, side="right")), int(cumulative.searchsorted(cumulative[-1])))
    start = cumulative[index - 1] if index else 0.0
    return index, float((position - start) / (cumulative[index] - start))


def _before(weights: NDArray[np.floating], index: int) -> float:
    """Return the sum of the weights that come before that of `index` in descending order; equal weights are in the order of indices."""
    weight = weights[index]
    larger = weights[weights > weight].sum(dtype=np.float64)
    return float(larger + np.count_nonzero(weights[:index] == weight) * float(weight))


def _sample_sorted(weights: NDArray[np.floating], params: SamplingParams, generator: np.random.Generator) -> int:
    kept = candidates(weights, params.top_k, params.top_p)
    cumulative = weights[kept].cumsum(dtype=np.float64)
    place = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    return int(kept[min(place, len(kept) - 1)])


def candidates(weights: NDArray[np.floating], top_k: int, top_p: float) -> NDArray[np.int64]:
    """Return the indices of the tokens that top-k and top-p keep; in descending order of weight if either is set."""
    size = len(weights)
    if not top_k and top_p == 1:
        return np.arange(size)
    for count in [top_k] if top_k else [NUCLEUS_CANDIDATES, size]:
        order = np.arange(size) if count >= size else np.argpartition(weights, -count)[-count:]
        order = order[np.argsort(-weights[order], kind="stable")]
        cumulative = weights[order].cumsum(dtype=np.float64)
        target = top_p * (cumulative[-1] if top_k else weights.sum(dtype=np.float64))
        if cumulative[-1] >= target:
            break
    return order[: int(np.searchsorted(cumulative, target)) + 1]
