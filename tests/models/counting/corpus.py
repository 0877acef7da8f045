"""A corpus of any size, and the memory that the bigram of it takes: `python -m tests.models.counting.corpus FILE MEGABYTES [AT_ONCE]`.

The words of a text are drawn one by one. They therefore form more distinct bigrams than natural text of the same length does.
"""

import functools
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bigram import Bigram
from models.counting.keys import AT_ONCE

WORDS = 3_000_000
EXPONENT, SHIFT = 1.3, 12.0
"""P(rank r) is proportional to (r + SHIFT) ** -EXPONENT, by Zipf and Mandelbrot."""
WORDS_PER_TEXT = 500
SYLLABLES = [consonant + vowel for consonant in "bdfghklmnprstvwz" for vowel in "aeiou"]
COUNTED = 20
"""The bigrams of so many most frequent words are counted while the corpus is written."""


@functools.cache
def spell(rank: int) -> str:
    """Return the word of a rank: a number with syllables for digits."""
    rank, digit = divmod(rank, len(SYLLABLES))
    return (spell(rank - 1) if rank else "") + SYLLABLES[digit]


def write_corpus(path: Path, size: int) -> tuple[int, NDArray[np.int64]]:
    """Write at least `size` bytes, one text a line.

    Returns the number of texts, and how often each of the `COUNTED` most frequent words is followed by each, as a matrix.
    """
    generator, power = np.random.default_rng(0), 1 - EXPONENT
    texts, pairs = 0, np.zeros(COUNTED**2, np.int64)
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            uniform = generator.random((200, WORDS_PER_TEXT))
            ranks = (SHIFT * (1 - uniform * (1 - (1 + WORDS / SHIFT) ** power)) ** (1 / power) - SHIFT).astype(np.int64)
            file.writelines(" ".join(map(spell, text)) + "\n" for text in ranks.tolist())
            first, second = ranks[:, :-1], ranks[:, 1:]
            counted = (first < COUNTED) & (second < COUNTED)
            pairs += np.bincount(first[counted] * COUNTED + second[counted], minlength=COUNTED**2)
            texts += len(ranks)
    return texts, pairs.reshape(COUNTED, COUNTED)


class Lines:
    """The lines of a file, read one by one each time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield line.removesuffix("\n")


def memory(name: str) -> int:
    """Return a value of this process in bytes: VmHWM is its largest resident set. (That of `getrusage` includes its parent's.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def fit(path: Path, limit: int, at_once: int = AT_ONCE) -> dict[str, Any]:
    """Fit the bigram of a corpus, and save it beside it. Raises MemoryError if that allocates more than `limit` bytes at a time."""
    allowed = memory("VmData") + limit
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    model = Bigram.fit(Lines(path), at_once=at_once)
    model.save(path.parent)
    return {"bigrams": int(model.counts.sum()), "distinct": len(model.counts), "peak_megabytes": memory("VmHWM") / 1e6}


if __name__ == "__main__":
    path, megabytes, *at_once = sys.argv[1:]
    json.dump(fit(Path(path), int(megabytes) * 10**6, *map(int, at_once)), sys.stdout)
