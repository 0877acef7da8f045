"""Batch sequences: group them by length under a token budget, split each step among processes, pad on the right."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import Sampler

PADDING = np.iinfo(np.int64).max
"""The segment of padding tokens."""


@dataclass(frozen=True)
class Batch:
    """Sequences for one forward pass, padded on the right."""

    input_ids: torch.Tensor
    """(rows, longest), int64."""
    position_ids: torch.Tensor
    """(rows, longest), int64."""
    segments: torch.Tensor | None
    """(rows, longest), int64; see `training.data.encoding.TrainingSequence`. None if every row is a single segment: then a
    causal mask is enough."""
    predictors: torch.Tensor
    """(supervised,): indices into the flattened `input_ids` of the tokens that predict `targets`."""
    targets: torch.Tensor
    """(supervised,): the tokens to predict."""
    weights: torch.Tensor
    """(supervised,): the loss weights of `targets`, float32."""
    tokens: int
    """The number of tokens, without padding."""

    def to(self, device: torch.device) -> Self:
        """Return the same batch on `device`."""
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return type(self)(**{**vars(self), **moved})


def collate(rows: Sequence[dict[str, Any]]) -> Batch:
    """Pad encoded sequences to a `Batch`.

    A process may have no rows in a step. The batch is then a single token of padding.
    """
    longest = max((len(row["input_ids"]) for row in rows), default=1)
    shape = (max(len(rows), 1), longest)
    input_ids, position_ids = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, PADDING, dtype=np.int64)
    weights = np.zeros(shape, dtype=np.float32)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        input_ids[i, :length] = row["input_ids"]
        position_ids[i, :length] = row["position_ids"]
        segments[i, :length] = row["segments"]
        weights[i, :length] = row["weights"]
    supervised = np.flatnonzero(weights)
    has_several_segments = any(row["segments"][0] != row["segments"][-1] for row in rows)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        segments=torch.from_numpy(segments) if has_several_segments else None,
        predictors=torch.from_numpy(supervised - 1),
        targets=torch.from_numpy(input_ids.reshape(-1)[supervised]),
        weights=torch.from_numpy(weights.reshape(-1)[supervised]),
        tokens=sum(len(row["input_ids"]) for row in rows),
    )


class StepSampler:
    """Groups sequences of similar length into optimizer steps of up to `batch_tokens` tokens, padding included.

    The order depends on the seed and the epoch only, not on the number of processes: shuffle the sequences, sort each
    pool of 1,024 by length, cut the pools into steps, shuffle the steps.
    """

    POOL = 1024

    def __init__(self, lengths: Sequence[int], batch_tokens: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_tokens, self.seed = batch_tokens, seed

    def count(self, epochs: int) -> int:
        """Return the number of steps in the first `epochs` epochs. Epochs differ in their number of steps."""
        return sum(len(self.steps(epoch)) for epoch in range(epochs))

    def steps(self, epoch: int) -> list[list[int]]:
        """Return the steps of an epoch, each as the indices of its sequences."""
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        steps: list[list[int]] = []
        for start in range(0, len(order), self.POOL):
            pool = order[start : start + self.POOL]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            step: list[int] = []
            for row in pool.tolist():  # ascending lengths: the new row is the longest of the step
                if step and (len(step) + 1) * self.lengths[row] > self.batch_tokens:
                    steps.append(step)
                    step = []
                step.append(row)
            steps.append(step)
        return [steps[i] for i in generator.permutation(len(steps))]


def split_step(step: list[int], lengths: np.ndarray, micro_tokens: int, num_processes: int) -> list[list[int]]:
    """Split a step into micro-batches of up to `micro_tokens` tokens, padding included.

    Their number is a multiple of `num_processes`, so that each process gets the same number. Some are empty if the step
    has too few sequences. A sequence longer than `micro_tokens` gets a micro-batch to itself.
    """
    ordered = np.asarray(sorted(step, key=lambda row: int(lengths[row])), dtype=np.int64)
    for count in itertools.count(num_processes, num_processes):
        micro_batches = np.array_split(ordered, count)
        if all(len(rows) <= 1 or len(rows) * lengths[rows[-1]] <= micro_tokens for rows in micro_batches):
            break
    return [rows.tolist() for rows in micro_batches]


class MicroBatchSampler(Sampler[list[int]]):
    """A DataLoader's batch sampler: the micro-batches of one process, in epoch `epoch` from step `start`."""

    def __init__(self, sampler: StepSampler, micro_tokens: int, process_index: int = 0, num_processes: int = 1) -> None:
        self.sampler, self.micro_tokens = sampler, micro_tokens
        self.process_index, self.num_processes = process_index, num_processes
        self.epoch, self.start = 0, 0

    def micro_batches(self, step: list[int]) -> list[list[int]]:
        """Return the micro-batches of `step` that this process computes."""
        return split_step(step, self.sampler.lengths, self.micro_tokens, self.num_processes)[self.process_index :: self.num_processes]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield each micro-batch as the indices of its sequences."""
        for step in self.sampler.steps(self.epoch)[self.start :]:
            yield from self.micro_batches(step)
