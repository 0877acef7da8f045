import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.data.batching import PADDING, MicroBatchSampler, StepSampler, collate, split_step

ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "position_ids": [0, 1, 2, 3, 4], "segments": [1] * 5, "weights": [0, 0, 0, 1.0, 1.0]},
    {"input_ids": [1, 2, 3], "position_ids": [0, 1, 2], "segments": [1] * 3, "weights": [0, 0.5, 1.0]},
]


def test_only_tokens_with_a_weight_are_supervised() -> None:
    batch = collate(ROWS)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 0, 0]]
    assert batch.predictors.tolist() == [2, 3, 5, 6]  # each predicts the token after it
    assert batch.targets.tolist() == [8, 9, 2, 3]
    assert batch.weights.tolist() == [1, 1, 0.5, 1]
    assert batch.tokens == 8
    assert batch.segments is None  # each row is one segment, so a causal mask is enough


def test_segments_are_kept_if_a_row_has_several() -> None:
    batch = collate([ROWS[1], ROWS[0] | {"segments": [0, 0, 1, 1, 1]}])
    assert batch.segments is not None
    assert batch.segments.tolist() == [[1, 1, 1, PADDING, PADDING], [0, 0, 1, 1, 1]]


def test_no_rows_make_a_batch_of_one_padding_token() -> None:
    batch = collate([])
    assert (tuple(batch.input_ids.shape), batch.tokens, len(batch.targets)) == ((1, 1), 0, 0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(60, 400), st.integers(0, 5))
def test_an_epoch_has_every_row_once_within_the_budget_in_a_reproducible_order(lengths: list[int], budget: int, epoch: int) -> None:
    steps = StepSampler(lengths, budget, seed=3).steps(epoch)
    assert sorted(row for step in steps for row in step) == list(range(len(lengths)))
    assert all(len(step) * max(lengths[row] for row in step) <= budget for step in steps)
    assert StepSampler(lengths, budget, seed=3).steps(epoch) == steps


def test_epochs_group_differently_with_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(20, 300, size=2_000).tolist()
    sampler = StepSampler(lengths, 2_048, seed=0)
    first, second = sampler.steps(0), sampler.steps(1)
    assert first != second
    assert sampler.count(2) == len(first) + len(second)
    padded = sum(len(step) * max(lengths[row] for row in step) for step in first)
    assert sum(lengths) / padded > 0.95


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(300, 3_000), st.integers(1, 5))
def test_a_step_is_split_among_processes_without_loss(lengths: list[int], micro_tokens: int, processes: int) -> None:
    sizes = np.asarray(lengths)
    micro_batches = split_step(list(range(len(lengths))), sizes, micro_tokens, processes)
    assert len(micro_batches) % processes == 0
    assert sorted(row for rows in micro_batches for row in rows) == list(range(len(lengths)))
    assert all(len(rows) * sizes[rows].max() <= micro_tokens for rows in micro_batches if rows)


@given(st.integers(1, 4), st.integers(0, 3))
def test_a_resumed_epoch_continues_at_its_step(processes: int, start: int) -> None:
    sampler = StepSampler(np.random.default_rng(1).integers(5, 50, size=60).tolist(), 200, seed=0)
    for process in range(processes):
        whole, resumed = (MicroBatchSampler(sampler, 100, process, processes) for _ in range(2))
        resumed.start = start
        before = [rows for step in sampler.steps(0)[:start] for rows in whole.micro_batches(step)]
        assert before + list(resumed) == list(whole)
