"""The cost of a word outside the vocabulary: it is spelled, byte by byte.

A word model gives such a word P(unknown | what came before). Alone that would be a gift: the more words a vocabulary leaves out, the better
it would look. So each is charged its spelling too, P(unknown | …) · P(its bytes, then an end), by a model of bytes that is learned from
the training words outside the vocabulary. Every string of bytes has a probability above zero, so every text has a finite cost.

The bytes follow an interpolated Witten-Bell model (Witten & Bell 1991, https://doi.org/10.1109/18.87000; in this form Chen & Goodman 1999,
section 2.5) down to a uniform distribution over the 256 bytes and the end: P(b | h) = (c(h b) + T(h) P(b | h')) / (c(h) + T(h)), where
T(h) is the number of different bytes that followed h, and h' is h without its first byte.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

ORDER = 6
"""A byte is predicted from the five before it, as far as they have been seen."""
END, START = 256, 257
"""Symbols besides the bytes: the end of a word, and what stands before its beginning."""
BASE = 258

Integers = NDArray[np.int64]
Tables = list[tuple[Integers, Integers]]


class Spelling:
    """Counts of byte sequences of each length from 1 to `ORDER`, as sorted keys: a sequence read as a number of base 258."""

    def __init__(self, read: Callable[[], Tables]) -> None:
        self._read = read

    @cached_property
    def tables(self) -> Tables:
        """Of each order its keys and counts. Read when they are asked for: serving, which spells nothing, never does."""
        return self._read()

    @cached_property
    def _contexts(self) -> list[tuple[Integers, Integers, Integers]]:
        """Of each order the contexts (a key without its last symbol), how often anything followed, and how many different symbols did."""
        result = []
        for keys, counts in self.tables:
            contexts, first, types = np.unique(keys // BASE, return_index=True, return_counts=True)
            result.append((contexts, np.add.reduceat(counts, first) if len(keys) else counts, types))
        return result

    @classmethod
    def fit(cls, words: Iterable[str]) -> Self:
        """Learn from different `words`, each counted once: how often a new word comes is not this model's affair."""
        tables = [np.unique(keys, return_counts=True) for keys in _keys(*_symbols(words))]
        return cls(lambda: tables)

    def bits(self, words: Iterable[str]) -> NDArray[np.float64]:
        """The cost of spelling each of `words`, in bits, shape (words,)."""
        symbols, ends = _symbols(words)
        if not len(ends):
            return np.zeros(0)
        probability = np.full(len(symbols), 1 / (BASE - 1))  # never the start
        for keys, (known, counts), (contexts, totals, types) in zip(_keys(symbols, ends), self.tables, self._contexts, strict=True):
            if not len(known):
                continue
            before = keys // BASE
            count, total, different = _look_up(known, counts, keys), _look_up(contexts, totals, before), _look_up(contexts, types, before)
            smoothed = (count + different * probability) / np.maximum(total + different, 1)
            probability = np.where(total > 0, smoothed, probability)
        result: NDArray[np.float64] = -np.add.reduceat(np.log2(probability), np.concatenate([[0], ends[:-1] + 1]))
        return result

    def save(self, path: Path) -> None:
        """Write the counts as `.npz`."""
        arrays = {
            f"{name}{n}": part for n, table in enumerate(self.tables, 1) for name, part in zip(("keys", "counts"), table, strict=True)
        }
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes one of them for its `allow_pickle`

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""

        def read() -> Tables:
            with np.load(path, allow_pickle=False) as arrays:
                return [(arrays[f"keys{n}"], arrays[f"counts{n}"]) for n in range(1, ORDER + 1)]

        return cls(read)


def _symbols(words: Iterable[str]) -> tuple[Integers, Integers]:
    """The bytes of all words in a row, each word with its end; and where the ends stand. A lone surrogate is spelled as its three bytes."""
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    ends = np.cumsum([len(word) + 1 for word in encoded], dtype=np.int64) - 1
    symbols = np.frombuffer(b"\0".join([*encoded, b""]), np.uint8).astype(np.int64)
    symbols[ends] = END
    return symbols, ends


def _keys(symbols: Integers, ends: Integers) -> list[Integers]:
    """Of each order from 1 to `ORDER` the key of the sequence that ends at each symbol; before a word's beginning stands `START`."""
    starts = np.zeros(len(symbols), np.int64)
    starts[ends[:-1] + 1] = ends[:-1] + 1
    place = np.arange(len(symbols)) - np.maximum.accumulate(starts)
    keys, result = symbols, [symbols]
    for order in range(1, ORDER):
        keys = keys + np.where(place >= order, np.roll(symbols, order), START) * BASE**order
        result.append(keys)
    return result


def _look_up(known: Integers, values: Integers, keys: Integers) -> Integers:
    """The value of each key, 0 where it is not known."""
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[at] == keys, values[at], 0)
