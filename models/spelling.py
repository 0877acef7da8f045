"""The cost of a word outside the vocabulary: it is spelled byte by byte.

A word model assigns such a word P(unknown | preceding words). That alone would reward small vocabularies: the more words are left out, the
better the model would look. So the word also pays for its spelling, P(its bytes, then an end), under a byte model that is learned
from the training words outside the vocabulary. Every byte string has a probability above zero, so every text has a finite cost.

The byte model is an interpolated Witten-Bell model (Witten & Bell 1991, https://doi.org/10.1109/18.87000, in the form of Chen & Goodman
1999, section 2.5) that backs off to a uniform distribution over the 256 bytes and the end:
P(b | h) = (c(h b) + T(h) P(b | h')) / (c(h) + T(h)), where T(h) is the number of distinct bytes that followed h in training, and h' is h
without its first byte.
"""

import itertools
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.counting.keys import count_keys

ORDER = 6
"""Length of the longest byte sequences counted: a byte is predicted from up to five preceding ones."""
END, START = 256, 257
"""Symbols besides the bytes: the end of a word, and the padding before its first byte."""
BASE = 258
"""Number of symbols."""
WORDS_AT_ONCE, SEQUENCES_AT_ONCE = 10_000, 2**20
"""The words whose sequences are made at once, and the sequences that are counted in memory."""

Integers = NDArray[np.int64]
Tables = list[tuple[Integers, Integers]]


class Spelling:
    """Counts of byte sequences of each length from 1 to `ORDER`. The key of a sequence is its value as a number in base 258."""

    def __init__(self, read: Callable[[], Tables]) -> None:
        self._read = read

    @cached_property
    def tables(self) -> Tables:
        """The sorted keys and their counts for each order. Read on first use: most services never need them."""
        return self._read()

    @cached_property
    def _contexts(self) -> list[tuple[Integers, Integers, Integers]]:
        """For each order: the contexts (keys without their last symbol), their counts, and the number of distinct symbols after each."""
        result = []
        for keys, counts in self.tables:
            contexts, first, types = np.unique(keys // BASE, return_index=True, return_counts=True)
            result.append((contexts, np.add.reduceat(counts, first) if len(keys) else counts, types))
        return result

    @property
    def is_ready(self) -> bool:
        """Whether the counts have been read, so that `bits` takes microseconds."""
        return "_contexts" in self.__dict__

    def prepare(self) -> None:
        """Read the counts now, instead of on first use."""
        _ = self._contexts

    @classmethod
    def fit(cls, words: Iterable[str]) -> Self:
        """Learn from distinct `words`, each counted once: the word model accounts for how often unknown words occur.

        The tables take 16 bytes for each distinct sequence of bytes.
        """
        iterator = iter(words)
        batches = iter(lambda: list(itertools.islice(iterator, WORDS_AT_ONCE)), [])
        # All orders are counted together, each in a range of its own.
        parts = (keys + order * BASE**ORDER for batch in batches for order, keys in enumerate(_keys(*_symbols(batch))))
        blocks = list(count_keys(parts, SEQUENCES_AT_ONCE))
        keys, counts = np.concatenate(blocks, axis=1) if blocks else np.empty((2, 0), np.int64)
        ends = np.searchsorted(keys, np.arange(1, ORDER) * BASE**ORDER)
        tables = list(zip(np.split(keys % BASE**ORDER, ends), np.split(counts, ends), strict=True))
        return cls(lambda: tables)

    def bits(self, words: Iterable[str]) -> NDArray[np.float64]:
        """Return the cost of spelling each of `words` in bits, shape (words,)."""
        symbols, ends = _symbols(words)
        if not len(ends):
            return np.zeros(0)
        probability = np.full(len(symbols), 1 / (BASE - 1))  # uniform over all symbols but the padding
        for keys, (known, counts), (contexts, totals, types) in zip(_keys(symbols, ends), self.tables, self._contexts, strict=True):
            if not len(known):
                continue
            before = keys // BASE
            count, total, distinct = _look_up(known, counts, keys), _look_up(contexts, totals, before), _look_up(contexts, types, before)
            smoothed = (count + distinct * probability) / np.maximum(total + distinct, 1)
            probability = np.where(total > 0, smoothed, probability)
        result: NDArray[np.float64] = -np.add.reduceat(np.log2(probability), np.concatenate([[0], ends[:-1] + 1]))
        return result

    def save(self, path: Path) -> None:
        """Write the counts as `.npz`."""
        arrays = {
            f"{name}{n}": array for n, table in enumerate(self.tables, 1) for name, array in zip(("keys", "counts"), table, strict=True)
        }
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # numpy's stub mistakes one of them for `allow_pickle`

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open counts that `save` wrote."""

        def read() -> Tables:
            with np.load(path, allow_pickle=False) as arrays:
                return [(arrays[f"keys{n}"], arrays[f"counts{n}"]) for n in range(1, ORDER + 1)]

        return cls(read)


def _symbols(words: Iterable[str]) -> tuple[Integers, Integers]:
    """Return the symbols of all words in one row, each word followed by `END`, and the positions of the ends.

    A lone surrogate is spelled as its three bytes.
    """
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    ends = np.cumsum([len(word) + 1 for word in encoded], dtype=np.int64) - 1
    symbols = np.frombuffer(b"\0".join([*encoded, b""]), np.uint8).astype(np.int64)
    symbols[ends] = END
    return symbols, ends


def _keys(symbols: Integers, ends: Integers) -> list[Integers]:
    """Return, for each order from 1 to `ORDER`, the key of the sequence that ends at each symbol. Words are padded with `START`."""
    starts = np.zeros(len(symbols), np.int64)
    starts[ends[:-1] + 1] = ends[:-1] + 1
    position = np.arange(len(symbols)) - np.maximum.accumulate(starts)  # within the word
    keys, result = symbols, [symbols]
    for order in range(1, ORDER):
        keys = keys + np.where(position >= order, np.roll(symbols, order), START) * BASE**order
        result.append(keys)
    return result


def _look_up(known: Integers, values: Integers, keys: Integers) -> Integers:
    """Return the value of each key, and 0 for unknown keys."""
    index = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[index] == keys, values[index], 0)
