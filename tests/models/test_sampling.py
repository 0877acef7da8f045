import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import SamplingParams
from models.sampling import REJECTION_TOP_P, candidates, log_softmax, sample, sample_from_weights

LOGPROBS = log_softmax(np.array([1.0, 3.0, 2.0, -np.inf, 0.0]))


def frequencies(params: SamplingParams, draws: int = 4000) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.bincount([sample(LOGPROBS, params, generator) for _ in range(draws)], minlength=5) / draws


def test_zero_temperature_takes_the_most_probable_token() -> None:
    assert sample(LOGPROBS, SamplingParams(temperature=0), np.random.default_rng(0)) == 1


def test_unrestricted_sampling_follows_the_distribution() -> None:
    params = SamplingParams(temperature=1, top_p=1)
    np.testing.assert_allclose(frequencies(params), np.exp(LOGPROBS), atol=0.03)


def test_a_low_temperature_sharpens_the_distribution() -> None:
    expected = np.exp(log_softmax(LOGPROBS / 0.5))
    np.testing.assert_allclose(frequencies(SamplingParams(temperature=0.5, top_p=1)), expected, atol=0.03)


def test_top_k_keeps_the_k_most_probable_tokens_in_proportion() -> None:
    expected = np.exp([3.0, 2.0])
    found = frequencies(SamplingParams(temperature=1, top_k=2, top_p=1))
    np.testing.assert_allclose(found[[1, 2]], expected / expected.sum(), atol=0.03)
    assert found[[0, 3, 4]].sum() == 0


def test_top_p_keeps_the_smallest_set_of_that_probability() -> None:
    # Probabilities are about 0.64, 0.24, 0.09, 0.03: the first two reach 0.8, the first alone 0.6.
    assert set(np.flatnonzero(frequencies(SamplingParams(temperature=1, top_p=0.8)))) == {1, 2}
    assert set(np.flatnonzero(frequencies(SamplingParams(temperature=1, top_p=0.6)))) == {1}


@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=40),
    st.floats(0, 2),
    st.integers(0, 50),
    st.floats(0.01, 1),
    st.integers(0, 2**32 - 1),
)
def test_tokens_with_probability_zero_are_never_sampled(
    logits: list[float], temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    logprobs = log_softmax(np.array([*logits, -np.inf]))
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    drawn = sample(logprobs, params, np.random.default_rng(seed))
    assert drawn < len(logits)
    if top_k:
        assert (logprobs > logprobs[drawn]).sum() < top_k


def test_log_softmax_sums_to_one() -> None:
    assert np.exp(LOGPROBS).sum() == pytest.approx(1)


class EvenlySpaced:
    """A generator whose draw is the middle of one of `count` equal parts of [0, 1); a second draw raises Rejected."""

    def __init__(self, part: int, count: int) -> None:
        self.draws = [(part + 0.5) / count]

    def random(self) -> float:
        if not self.draws:
            raise Rejected
        return self.draws.pop()


class Rejected(Exception):
    pass


@given(
    st.lists(st.integers(-8, 2), min_size=2, max_size=40),  # integers, so that many are equal
    st.floats(0.5, 2),
    st.one_of(st.just(1.0), st.floats(REJECTION_TOP_P, 1)),
    st.integers(1, 7),
)
def test_accepted_draws_have_the_probabilities_of_the_nucleus(logits: list[int], temperature: float, top_p: float, size: int) -> None:
    logprobs = log_softmax(np.array(logits))
    weights = np.exp((logprobs - logprobs.max()) / temperature)
    padded = np.concatenate([weights, np.zeros(-len(weights) % size)])
    sums, params, parts = padded.reshape(-1, size).sum(axis=1), SamplingParams(temperature=temperature, top_p=top_p), 2000
    found = np.zeros(len(padded))
    for part in range(parts):
        with contextlib.suppress(Rejected):
            found[sample_from_weights(padded, sums, params, EvenlySpaced(part, parts))] += 1  # type: ignore[arg-type]
    kept = candidates(weights, 0, top_p)
    expected = np.zeros(len(padded))
    expected[kept] = weights[kept] / weights.sum() * parts
    # Each token owns two intervals of [0, 1) at most: that of its group, cut by that of the token.
    np.testing.assert_allclose(found, expected, atol=2)
    # A nucleus that ends within rounding of `top_p` may have one token more or less.
    assert abs(np.count_nonzero(found[kept]) - np.count_nonzero(found)) <= 1


@given(
    st.lists(st.floats(-20, 0), min_size=1, max_size=40),
    st.one_of(
        st.builds(SamplingParams, temperature=st.just(0.0)),
        st.builds(SamplingParams, temperature=st.just(0.7), top_k=st.integers(1, 50), top_p=st.floats(0.01, 1)),
        st.builds(SamplingParams, temperature=st.just(0.7), top_p=st.floats(0.01, REJECTION_TOP_P - 0.01)),
    ),
)
def test_small_nuclei_are_sorted(logits: list[float], params: SamplingParams) -> None:
    logprobs = log_softmax(np.array(logits))
    weights = np.exp((logprobs - logprobs.max()) / (params.temperature or 1))
    drawn = sample_from_weights(weights, weights, params, np.random.default_rng(1))
    assert drawn == sample(logprobs, params, np.random.default_rng(1))


def test_after_many_rejections_the_nucleus_is_sorted() -> None:
    class LastToken:
        def random(self) -> float:
            return 0.999

    weights = np.array([8.0, 1.0, 0.5, 0.5])
    assert sample_from_weights(weights, weights, SamplingParams(temperature=1, top_p=0.85), LastToken()) == 1  # type: ignore[arg-type]


def test_weights_of_zero_are_never_drawn_whatever_is_rounded() -> None:
    class One:
        def random(self) -> float:
            return 1.0  # more than a generator returns

    weights = np.array([0.0, 0.25, 0.75, 0.0, 0.0, 0.0])
    assert sample_from_weights(weights, weights.reshape(3, 2).sum(axis=1), SamplingParams(temperature=1, top_p=1), One()) == 2  # type: ignore[arg-type]
