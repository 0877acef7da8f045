from collections.abc import Iterator

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from training.data.batching import PADDING, Batch, MicroBatchSampler, StepSampler, collate, load, load_ahead

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


def test_segments_are_numbered_through_the_batch_if_a_row_has_several() -> None:
    batch = collate([ROWS[1], ROWS[0] | {"segments": [0, 1, -1, 2, 2]}])
    assert batch.segments is not None
    assert batch.contexts is not None
    assert batch.segments.tolist() == [[1, 1, 1, PADDING + 3, PADDING + 4], [3, 4, 2, 5, 5]]
    assert batch.contexts.tolist() == [[0, 0, 0, PADDING + 3, PADDING + 4], [3, 3, 2, 3, 3]]


def test_rows_are_padded_to_a_multiple() -> None:
    batch = collate(ROWS, multiple=16)
    assert tuple(batch.input_ids.shape) == (2, 16)
    assert batch.predictors.tolist() == [2, 3, 16, 17]
    assert batch.targets.tolist() == collate(ROWS).targets.tolist()


def test_a_batch_is_moved_and_pinned_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate([ROWS[0] | {"segments": [0, 0, 1, 1, 1]}])
    tensors = {name for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert tensors == {"input_ids", "position_ids", "segments", "contexts", "predictors", "targets", "weights"}
    moved = batch.to(torch.device("meta"))
    assert {getattr(moved, name).device.type for name in tensors} == {"meta"}
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.to("meta"))  # there may be no GPU to pin memory for
    assert {getattr(batch.pin_memory(), name).device.type for name in tensors} == {"meta"}


def test_batches_are_loaded_ahead_in_order_and_errors_arrive() -> None:
    rows = Dataset.from_list([ROWS[number % 2] for number in range(40)]).with_format("numpy")
    sampler = MicroBatchSampler(StepSampler([len(rows[i]["input_ids"]) for i in range(len(rows))], 11, seed=0), 11)
    for epoch in (0, 1):
        sampler.epoch = epoch
        expected = [batch.input_ids.tolist() for batch in load(rows, sampler, pin_memory=False)]
        assert len(expected) == len(list(sampler))
        assert [batch.input_ids.tolist() for batch in load_ahead(iter(load(rows, sampler, pin_memory=False)))] == expected

    def broken() -> Iterator[Batch]:
        yield collate(ROWS)
        raise OSError("the disk is gone")

    batches = load_ahead(broken())
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


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
    micro_batches = StepSampler(lengths, sum(lengths), seed=0).split(list(range(len(lengths))), micro_tokens, processes)
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
