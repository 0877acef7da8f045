"""From sequences to batches: grouped by length under a token budget, divided among processes, padded on the right."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Batch:
    """Sequences that are computed at once, padded on the right."""

    input_ids: torch.Tensor
    """(rows, longest), int64."""
    position_ids: torch.Tensor
    """(rows, longest), int64."""
    segments: torch.Tensor | None
    """(rows, longest): see `training.data.encoding.Sequence`; None where every row is one segment, so that being causal is enough."""
    predictors: torch.Tensor
    """(supervised,): where, in `input_ids` flattened, a supervised token must be predicted."""
    targets: torch.Tensor
    """(supervised,): the tokens to predict there."""
    weights: torch.Tensor
    """(supervised,): their weights in the loss, float32."""
    tokens: int
    """Tokens that are not padding."""

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`."""
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return type(self)(**{**vars(self), **moved})


def collate(rows: Sequence[dict[str, Any]]) -> Batch:
    """A `Batch` of encoded sequences; without any, one token of padding, for a process that has nothing to do in a step."""
    longest = max((len(row["input_ids"]) for row in rows), default=1)
    shape = (max(len(rows), 1), longest)
    input_ids, position_ids = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, PADDING, dtype=np.int64)
    weights = np.zeros(shape, dtype=np.float32)
    for at, row in enumerate(rows):
        width = len(row["input_ids"])
        input_ids[at, :width], position_ids[at, :width] = row["input_ids"], row["position_ids"]
        segments[at, :width], weights[at, :width] = row["segments"], row["weights"]
    flat = np.flatnonzero(weights)
    several = any(row["segments"][0] != row["segments"][-1] for row in rows)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        segments=torch.from_numpy(segments) if several else None,
        predictors=torch.from_numpy(flat - 1),
        targets=torch.from_numpy(input_ids.reshape(-1)[flat]),
        weights=torch.from_numpy(weights.reshape(-1)[flat]),
        tokens=sum(len(row["input_ids"]) for row in rows),
    )


PADDING = np.iinfo(np.int64).max
"""The segment of padding."""


class StepSampler:
    """Which sequences each optimizer step learns from: of like length, at most `batch_tokens` tokens with their padding.

    The order is a pure function of the seed and the epoch, whatever the number of processes: shuffle the sequences, sort each pool of
    1,024 by length, cut the pools into steps, shuffle the steps.
    """

    POOL = 1024

    def __init__(self, lengths: Sequence[int], batch_tokens: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_tokens, self.seed = batch_tokens, seed

    def count(self, epochs: int) -> int:
        """Steps in the first `epochs` epochs together: how sequences fall into steps differs from one to the next."""
        return sum(len(self.steps(epoch)) for epoch in range(epochs))

    def steps(self, epoch: int) -> list[list[int]]:
        """The steps of an epoch, each the indices of its sequences."""
        generator = np.random.default_rng([self.seed, epoch])
        rows = generator.permutation(len(self.lengths))
        steps: list[list[int]] = []
        for start in range(0, len(rows), self.POOL):
            pool = rows[start : start + self.POOL]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            step: list[int] = []
            for row in pool.tolist():
                if step and (len(step) + 1) * self.lengths[row] > self.batch_tokens:
                    steps.append(step)
                    step = []
                step.append(row)
            steps.append(step)
        return [steps[at] for at in generator.permutation(len(steps))]


def divide(step: list[int], lengths: np.ndarray, micro_tokens: int, processes: int) -> list[list[int]]:
    """Cut a step into parts of at most `micro_tokens` tokens with their padding, as many for each of the `processes`; parts are
    empty where there are fewer sequences than that. One sequence that is longer is a part by itself.
    """
    ordered = np.asarray(sorted(step, key=lambda row: int(lengths[row])), dtype=np.int64)
    for count in itertools.count(processes, processes):
        parts = np.array_split(ordered, count)
        if all(len(part) <= 1 or len(part) * lengths[part[-1]] <= micro_tokens for part in parts):
            break
    return [part.tolist() for part in parts]


class MicroBatches(Sampler[list[int]]):
    """For a DataLoader: the parts of one process, over the steps of an epoch from `start` on."""

    def __init__(self, sampler: StepSampler, micro_tokens: int, process: int = 0, processes: int = 1) -> None:
        self.sampler, self.micro_tokens = sampler, micro_tokens
        self.process, self.processes = process, processes
        self.epoch, self.start = 0, 0

    def parts(self, step: list[int]) -> list[list[int]]:
        """What this process computes of a step."""
        return divide(step, self.sampler.lengths, self.micro_tokens, self.processes)[self.process :: self.processes]

    def __iter__(self) -> Iterator[list[int]]:
        """The indices of each part's sequences."""
        for step in self.sampler.steps(self.epoch)[self.start :]:
            yield from self.parts(step)
