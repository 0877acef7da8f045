"""The LSTM's graphs: what they compute, and that a text does not depend on the others."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import lstm_batch
from models.lstm_batch import BLOCK_TEXTS, FIRST_WORD, SUM_WIDTH, Array, BatchedLSTM
from models.sampling import log_softmax
from training.word_models.lstm import LSTMConfig, LSTMLanguageModel

SIZE = 12_000
TEXTS = 64


def random_model(size: int, width: int = 64) -> LSTMLanguageModel:
    torch.manual_seed(0)
    return LSTMLanguageModel(size, LSTMConfig(width=width)).eval()


def weights_of(model: LSTMLanguageModel) -> Mapping[str, Array]:
    return {name: weight.numpy() for name, weight in model.state_dict().items()}


@pytest.fixture(scope="module")
def batched() -> BatchedLSTM:
    return BatchedLSTM(weights_of(random_model(SIZE)), streams=2)


@pytest.mark.parametrize("size", [3, 50, 2_500, SIZE], ids=["one word", "shortlist", "one band", "two bands"])
def test_the_graphs_compute_what_torch_trained(size: int) -> None:
    trained = random_model(size)
    served = BatchedLSTM(weights_of(trained))
    ids = np.array([0, size - 1, 2_400]) % size
    state = served.initial_state()[None]
    with torch.no_grad():
        outputs = trained(torch.from_numpy(ids)[None])[0][0]
    for id, output in zip(ids, outputs, strict=True):
        state = served.read(np.array([id]), state)
        logprobs = served.logprobs(state[0])
        with torch.no_grad():
            expected = -trained.words.loss(output.expand(size, -1), torch.arange(size)).numpy()
        assert np.exp(logprobs.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(logprobs, expected, atol=0.05)  # int8 rounds

        (distributions,) = served.distributions(state, np.array([0.7], np.float32))
        generated = log_softmax(logprobs[FIRST_WORD:])
        np.testing.assert_allclose(
            distributions.weights[0, : size - FIRST_WORD], np.exp((generated - generated.max()) / 0.7), rtol=1e-3, atol=1e-6
        )
        assert not distributions.weights[0, size - FIRST_WORD :].any()
        np.testing.assert_allclose(distributions.sums[0], distributions.weights[0].reshape(-1, SUM_WIDTH).sum(axis=1), rtol=1e-5)
        assert distributions.totals[0] == pytest.approx(np.exp(generated - generated.max()).sum(), rel=1e-4)


@given(st.lists(st.integers(0, TEXTS - 1), min_size=1, max_size=TEXTS), st.integers(0, 2**32 - 1))
def test_a_text_has_the_same_bits_in_every_place_of_every_batch(batched: BatchedLSTM, texts: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    ids = generator.integers(SIZE, size=TEXTS)
    states = generator.uniform(-1, 1, (TEXTS, batched.state_width)).astype(np.float32)
    temperatures = generator.uniform(0.1, 2, TEXTS).astype(np.float32)
    new_states = batched.read(ids[texts], states[texts])
    batch = [
        parts
        for block in batched.distributions(states[texts], temperatures[texts])
        for parts in zip(block.weights.copy(), block.sums.copy(), block.totals.copy(), strict=True)
    ]
    for place, text in list(enumerate(texts))[:: max(1, len(texts) // 4)]:
        one = slice(text, text + 1)
        assert np.array_equal(new_states[place], batched.read(ids[one], states[one])[0])
        (alone,) = batched.distributions(states[one], temperatures[one])
        expected = (alone.weights[0], alone.sums[0], alone.totals[0])
        assert all(np.array_equal(*pair) for pair in zip(batch[place], expected, strict=True))


def test_texts_are_computed_one_by_one_where_blocks_round_differently(batched: BatchedLSTM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert batched.blocks_agree  # on this machine
    ids, states = np.arange(BLOCK_TEXTS), np.zeros((BLOCK_TEXTS, batched.state_width), np.float32)
    expected = batched.read(ids, states)
    monkeypatch.setattr(batched, "blocks_agree", False)
    monkeypatch.setattr(batched, "_block", {})
    monkeypatch.setattr(batched, "_blocks", {})
    assert np.array_equal(batched.read(ids, states), expected)


def test_a_block_that_rounds_differently_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, build = weights_of(random_model(50)), lstm_batch._read_graph

    def _read_graph(weights: Mapping[str, Array], size: int) -> object:
        rounded = {name: np.nextafter(weight, np.float32(9)) if name.endswith("bias_ih_l0") else weight for name, weight in weights.items()}
        return build(rounded if size > 1 else weights, size)

    monkeypatch.setattr(lstm_batch, "_read_graph", _read_graph)
    assert not BatchedLSTM(weights).blocks_agree
