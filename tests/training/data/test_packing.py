import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.data.test_batching import ROWS
from training.data.batching import PADDING
from training.data.packing import BLOCK, PackedSampler, pack


def test_sequences_follow_one_another_and_keep_their_segments_apart() -> None:
    batch = pack([ROWS[1], ROWS[0] | {"segments": [0, 0, 1, 1, -1]}], 10)
    assert batch.segments is not None
    assert batch.contexts is not None
    assert batch.input_ids.tolist() == [[1, 2, 3, 5, 6, 7, 8, 9, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3, 4, 0, 0]]
    assert batch.segments.tolist() == [[1, 1, 1, 3, 3, 4, 4, 2, PADDING + 8, PADDING + 9]]
    assert batch.contexts.tolist() == [[0, 0, 0, 3, 3, 3, 3, 2, PADDING + 8, PADDING + 9]]
    assert batch.predictors.tolist() == [0, 1, 5, 6]
    assert batch.targets.tolist() == [2, 3, 8, 9]
    assert batch.tokens == 8


def test_no_rows_make_a_row_of_padding() -> None:
    batch = pack([], BLOCK)
    assert (tuple(batch.input_ids.shape), batch.tokens, len(batch.targets)) == ((1, BLOCK), 0, 0)


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        pack(ROWS, 7)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(60, 400), st.integers(0, 5))
def test_an_epoch_has_every_row_once_within_the_budget_in_a_reproducible_order(lengths: list[int], budget: int, epoch: int) -> None:
    steps = PackedSampler(lengths, budget, seed=3).steps(epoch)
    assert sorted(row for step in steps for row in step) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in step) <= budget for step in steps)
    assert PackedSampler(lengths, budget, seed=3).steps(epoch) == steps


@given(st.lists(st.integers(1, 384), min_size=1, max_size=60), st.integers(384, 3_000), st.integers(100, 4_000), st.integers(1, 5))
def test_every_micro_batch_fits_into_a_row_of_the_same_length(lengths: list[int], budget: int, micro_tokens: int, processes: int) -> None:
    sampler, sizes = PackedSampler(lengths, budget, seed=0), np.asarray(lengths)
    count, length = sampler.shape(micro_tokens, processes)
    assert count % processes == 0
    assert length % BLOCK == 0
    assert length < max(micro_tokens, 2 * max(lengths)) + BLOCK
    for step in sampler.steps(0):
        micro_batches = sampler.split(step, micro_tokens, processes)
        assert len(micro_batches) == count
        assert sorted(row for rows in micro_batches for row in rows) == sorted(step)
        assert all(sizes[rows].sum() <= length for rows in micro_batches)


def test_little_is_padding() -> None:
    lengths = np.random.default_rng(0).integers(20, 384, size=4_000).tolist()
    sampler = PackedSampler(lengths, 16_384, seed=0)
    assert sampler.steps(0) != sampler.steps(1)
    assert sampler.shape(16_384, 1) == (1, 16_384)
    assert sum(lengths) / (len(sampler.steps(0)) * 16_384) > 0.97
    count, length = sampler.shape(16_384, 4)
    assert sum(lengths) / (len(sampler.steps(0)) * count * length) > 0.88
