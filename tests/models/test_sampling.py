import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import SamplingParams
from models.sampling import log_softmax, sample

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
