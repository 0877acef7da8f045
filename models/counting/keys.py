"""Count integers of any number in bounded memory: an external merge sort.

Each part of the input becomes a sorted run of distinct keys with their counts, in a temporary file. The runs are then merged block by
block (Knuth, The Art of Computer Programming, volume 3, section 5.4). The memory depends neither on the length of the input nor on the
number of distinct keys; the file takes 16 bytes for each distinct key of each run.
"""

import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

AT_ONCE = 2**22
"""The number of keys in memory. Sorting or merging them takes up to 60 bytes each."""


def count_keys(parts: Iterable[Integers], at_once: int = AT_ONCE) -> Iterator[tuple[Integers, Integers]]:
    """Yield the distinct keys of all `parts` in ascending order, and how often each occurs, in blocks of up to about `at_once` keys.

    The keys are 0 or above. A part that is longer than `at_once` is sorted as a whole.
    """
    with tempfile.TemporaryFile() as file:
        runs = [_Run(file, *np.unique(keys, return_counts=True)) for keys in _gather(parts, at_once)]
        block = max(1, at_once // max(1, len(runs)))
        while runs := [run for run in runs if run.fill(block)]:
            bound = min(run.last_key for run in runs)  # every run has all of its keys up to this one in memory
            yield _add_up(*np.concatenate([run.take(bound) for run in runs], axis=1))


class _Run:
    """Distinct keys in ascending order, and their counts. They lie in a file; a block of them, shape (2, keys), is in memory."""

    def __init__(self, file: IO[bytes], keys: Integers, counts: Integers) -> None:
        self._file, self._position, self._left = file, file.seek(0, 2), len(keys)
        self._block = np.empty((2, 0), np.int64)
        file.write(np.stack([keys, counts], axis=1).data)

    def fill(self, size: int) -> bool:
        """Read up to `size` keys, if none is in memory. Returns whether there was one."""
        if not self._block.shape[1]:
            self._file.seek(self._position)
            pairs = np.frombuffer(self._file.read(16 * min(size, self._left)), np.int64).reshape(-1, 2)
            self._block = pairs.T.copy()
            self._position, self._left = self._position + pairs.nbytes, self._left - len(pairs)
        return bool(self._block.shape[1])

    @property
    def last_key(self) -> int:
        """The largest key in memory."""
        return int(self._block[0, -1])

    def take(self, bound: int) -> Integers:
        """Remove the keys up to `bound` from memory, and return them with their counts."""
        end = int(np.searchsorted(self._block[0], bound, side="right"))
        taken, self._block = self._block[:, :end], self._block[:, end:]
        return taken


def _gather(parts: Iterable[Integers], at_once: int) -> Iterator[Integers]:
    """Join short parts until they have `at_once` keys."""
    gathered, length = list[Integers](), 0
    for part in parts:
        gathered.append(part)
        length += len(part)
        if length >= at_once:
            yield np.concatenate(gathered)
            gathered, length = [], 0
    if length:
        yield np.concatenate(gathered)


def _add_up(keys: Integers, counts: Integers) -> tuple[Integers, Integers]:
    """Return the distinct keys in ascending order, and the sum of each one's counts."""
    order = np.argsort(keys, kind="stable")  # which finds that the keys are sorted runs
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.add.reduceat(counts, first)
