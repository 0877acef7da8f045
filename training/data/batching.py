"""Batch sequences: group them by length under a token budget, split each step among processes, pad on the right, load."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler

PADDING = 2**30
"""The segment of the first token of a batch, if that is padding. Each token of padding is a segment of its own."""
AHEAD = 4
"""The batches that are prepared while a GPU computes."""


@dataclass(frozen=True)
class Batch:
    """Sequences for one forward pass."""

    input_ids: torch.Tensor
    """(rows, length), int64."""
    position_ids: torch.Tensor
    """(rows, length), int64."""
    segments: torch.Tensor | None
    """(rows, length), int32: the segment of each token (see `training.data.encoding.TrainingSequence`), numbered through the batch. None if
    every row is a single segment: then a causal mask is enough."""
    contexts: torch.Tensor | None
    """(rows, length), int32: the segment that a token attends to besides its own; its own if there is none. None if `segments` is."""
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
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the same batch in page-locked memory, which a GPU reads while it computes. A DataLoader calls this."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        changed = {name: function(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return type(self)(**{**vars(self), **changed})


def collate(rows: Sequence[dict[str, Any]], multiple: int = 1) -> Batch:
    """Pad encoded sequences to a `Batch` of one row each, whose length is a multiple of `multiple`.

    A process may have no rows in a step. The batch is then a single row of padding.
    """
    longest = round_up(max((len(row["input_ids"]) for row in rows), default=1), multiple)
    starts = [longest * i for i in range(len(rows))]
    has_several_segments = any(row["segments"][0] != row["segments"][-1] for row in rows)
    return build_batch(rows, starts, (max(len(rows), 1), longest), has_several_segments)


def build_batch(rows: Sequence[dict[str, Any]], starts: Sequence[int], shape: tuple[int, int], with_segments: bool) -> Batch:
    """Return a `Batch` of `shape` that has each sequence at its place of `starts` in the flattened batch, and padding elsewhere."""
    size = shape[0] * shape[1]
    input_ids, position_ids, weights = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.float32)
    segments = np.arange(PADDING, PADDING + size, dtype=np.int32)
    contexts = segments.copy()
    number = 0
    for row, start in zip(rows, starts, strict=True):
        own = np.asarray(row["segments"])
        place, lowest = slice(start, start + len(own)), min(own.min(), 0)
        input_ids[place], position_ids[place], weights[place] = row["input_ids"], row["position_ids"], row["weights"]
        segments[place] = own - lowest + number
        contexts[place] = np.minimum(own, 0) - lowest + number
        number += max(own.max(), 0) - lowest + 1
    supervised = np.flatnonzero(weights)
    return Batch(
        input_ids=torch.from_numpy(input_ids.reshape(shape)),
        position_ids=torch.from_numpy(position_ids.reshape(shape)),
        segments=torch.from_numpy(segments.reshape(shape)) if with_segments else None,
        contexts=torch.from_numpy(contexts.reshape(shape)) if with_segments else None,
        predictors=torch.from_numpy(supervised - 1),
        targets=torch.from_numpy(input_ids[supervised]),
        weights=torch.from_numpy(weights[supervised]),
        tokens=sum(len(row["input_ids"]) for row in rows),
    )


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is not below `number`."""
    return -(-number // multiple) * multiple


class StepSampler:
    """Groups sequences of similar length into optimizer steps of up to `batch_tokens` tokens, padding included.

    The order depends on the seed and the epoch only, not on the number of processes: shuffle the sequences, sort each
    pool of 1,024 by length, cut the pools into steps, shuffle the steps.
    """

    POOL = 1024

    def __init__(self, lengths: Sequence[int], batch_tokens: int, seed: int, multiple: int = 1) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_tokens, self.seed, self.multiple = batch_tokens, seed, multiple

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

    def split(self, step: list[int], micro_tokens: int, num_processes: int) -> list[list[int]]:
        """Split a step into micro-batches of up to `micro_tokens` tokens, padding included.

        Their number is a multiple of `num_processes`, so that each process gets the same number. Some are empty if the step
        has too few sequences. A sequence longer than `micro_tokens` gets a micro-batch to itself.
        """
        ordered = np.asarray(sorted(step, key=lambda row: int(self.lengths[row])), dtype=np.int64)
        for count in itertools.count(num_processes, num_processes):
            micro_batches = np.array_split(ordered, count)
            if all(len(rows) <= 1 or len(rows) * self.lengths[rows[-1]] <= micro_tokens for rows in micro_batches):
                break
        return [rows.tolist() for rows in micro_batches]

    def collate_fn(self, micro_tokens: int, num_processes: int) -> Callable[[Sequence[dict[str, Any]]], Batch]:  # noqa: ARG002
        """Return the function that makes a `Batch` of the rows of a micro-batch."""
        return functools.partial(collate, multiple=self.multiple)


class MicroBatchSampler(Sampler[list[int]]):
    """A DataLoader's batch sampler: the micro-batches of one process, in epoch `epoch` from step `start`."""

    def __init__(self, sampler: StepSampler, micro_tokens: int, process_index: int = 0, num_processes: int = 1) -> None:
        self.sampler, self.micro_tokens = sampler, micro_tokens
        self.process_index, self.num_processes = process_index, num_processes
        self.epoch, self.start = 0, 0

    def micro_batches(self, step: list[int]) -> list[list[int]]:
        """Return the micro-batches of `step` that this process computes."""
        return self.sampler.split(step, self.micro_tokens, self.num_processes)[self.process_index :: self.num_processes]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield each micro-batch as the indices of its sequences."""
        for step in self.sampler.steps(self.epoch)[self.start :]:
            yield from self.micro_batches(step)


def load(sequences: Dataset, batch_sampler: MicroBatchSampler, pin_memory: bool) -> DataLoader[Batch]:
    """Return the loader of the micro-batches; `pin_memory` puts them where a GPU reads them while it computes."""
    collate_fn = batch_sampler.sampler.collate_fn(batch_sampler.micro_tokens, batch_sampler.num_processes)
    # A DataLoader draws a seed for each new iterator, and a resumed run creates one iterator more. With a generator of its own,
    # that does not change the global random state, which dropout uses.
    generator = torch.Generator()
    return DataLoader(sequences, batch_sampler=batch_sampler, collate_fn=collate_fn, generator=generator, pin_memory=pin_memory)


def load_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield `batches`, of which a thread prepares the next ones meanwhile.

    A DataLoader's workers are forks of this process, with the locks of Arrow's, the tokenizer's and CUDA's threads as they happen to be.
    """
    with ThreadPoolExecutor(1) as thread:
        ahead = deque(thread.submit(next, batches, None) for _ in range(AHEAD))
        while (batch := ahead.popleft().result()) is not None:
            ahead.append(thread.submit(next, batches, None))
            yield batch
