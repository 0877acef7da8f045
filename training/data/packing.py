"""Pack sequences one after the other into a single row of a fixed length, for attention that skips what a token does not attend to.

Every batch has the same shape, so a GPU compiles the model once, and computes hardly any padding.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.data.batching import Batch, StepSampler, build_batch, round_up

BLOCK = 128
"""The tokens of a block of FlexAttention. A packed row has whole blocks."""


def pack(rows: Sequence[dict[str, Any]], length: int) -> Batch:
    """Pack encoded sequences into a `Batch` of one row of `length` tokens, with padding at its end."""
    ends = np.cumsum([0, *(len(row["input_ids"]) for row in rows)]).tolist()
    return build_batch(rows, ends[:-1], (1, length), with_segments=True)


class PackedSampler(StepSampler):
    """Groups sequences of any length into optimizer steps of up to `batch_tokens` tokens, which are packed without padding between them.

    The order depends on the seed and the epoch only, not on the number of processes: shuffle the sequences, cut them into steps.
    """

    def steps(self, epoch: int) -> list[list[int]]:
        """Return the steps of an epoch, each as the indices of its sequences."""
        steps: list[list[int]] = [[]]
        tokens = 0
        for row in np.random.default_rng([self.seed, epoch]).permutation(len(self.lengths)).tolist():
            tokens += int(self.lengths[row])
            if steps[-1] and tokens > self.batch_tokens:
                steps.append([])
                tokens = int(self.lengths[row])
            steps[-1].append(row)
        return steps

    def split(self, step: list[int], micro_tokens: int, num_processes: int) -> list[list[int]]:
        """Split a step into as many micro-batches as every step has. Each sequence, the longest first, joins the shortest one so far."""
        count, _ = self.shape(micro_tokens, num_processes)
        micro_batches: list[list[int]] = [[] for _ in range(count)]
        tokens = [0] * count
        for row in sorted(step, key=lambda row: -int(self.lengths[row])):
            shortest = tokens.index(min(tokens))
            micro_batches[shortest].append(row)
            tokens[shortest] += int(self.lengths[row])
        return micro_batches

    def shape(self, micro_tokens: int, num_processes: int) -> tuple[int, int]:
        """Return the number of micro-batches of a step, a multiple of `num_processes`, and the length of their rows.

        The length is `micro_tokens` at most, rounded up to whole blocks, unless sequences are too long for that. `split` never exceeds it:
        the shortest micro-batch, which a sequence joins, is no longer than their mean (Graham 1969, doi:10.1137/0117039).
        """
        longest = int(self.lengths.max())
        for count in itertools.count(num_processes, num_processes):
            length = -(-(self.batch_tokens + (count - 1) * longest) // count)  # the mean without the longest sequence, and that sequence
            if length <= micro_tokens or count * longest >= self.batch_tokens:
                break
        return count, round_up(length, BLOCK)

    def collate_fn(self, micro_tokens: int, num_processes: int) -> Callable[[Sequence[dict[str, Any]]], Batch]:
        """Return the function that makes a `Batch` of the rows of a micro-batch."""
        return functools.partial(pack, length=self.shape(micro_tokens, num_processes)[1])
