"""A bigram language model with interpolated Kneser-Ney smoothing, in NumPy.

P(w | v) = max(c(v w) - d, 0) / c(v) + d · |{w' : c(v w') > 0}| / c(v) · P_continuation(w), where P_continuation(w) is the share of
distinct bigrams that end in w. Absolute discount d = n1 / (n1 + 2 n2). Kneser & Ney 1995; in this form Chen & Goodman 1999, section 2.7,
https://doi.org/10.1006/csla.1999.0128.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.base import SamplingParams, Token, until_stop
from models.sampling import sample
from models.words import BOUNDARY, UNKNOWN, Vocabulary, join, tokenize


class Bigram:
    """Counts of word pairs as a sparse matrix in CSR form: row v holds the words that followed v, and how often."""

    def __init__(self, vocabulary: Vocabulary, starts: NDArray[np.int64], successors: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        self.vocabulary = vocabulary
        self.starts, self.successors, self.counts = starts, successors, counts
        """`starts` (V + 1): where each row begins. `successors`, `counts` (distinct bigrams): ids in ascending order, and counts."""
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        self.discount = once / (once + 2 * twice) if once and twice else 0.5
        size = len(vocabulary)
        self.continuation: NDArray[np.float64] = np.bincount(successors, minlength=size) / len(successors)
        """P_continuation, shape (V,)."""

    @classmethod
    def fit(cls, texts: Iterable[str], vocabulary_size: int = 30_000) -> Self:
        """Count the bigrams of `texts`, each text between boundaries of its own.

        Raises ValueError where the texts hold no word.
        """
        tokenized = [tokenize(text) for text in texts]
        vocabulary = Vocabulary.count(tokenized, vocabulary_size)
        ids = np.array([id for tokens in tokenized for id in (BOUNDARY, *vocabulary.encode(tokens))] + [BOUNDARY], dtype=np.int64)
        size = len(vocabulary)
        pairs, counts = np.unique(ids[:-1] * size + ids[1:], return_counts=True)
        rows, successors = np.divmod(pairs, size)
        starts = np.searchsorted(rows, np.arange(size + 1))
        return cls(vocabulary, starts, successors.astype(np.int32), counts.astype(np.int32))

    def probabilities(self, previous: int) -> NDArray[np.float64]:
        """P(· | previous), shape (V,), summing to 1. A word without a successor, such as one outside the vocabulary that
        was never met in training, gives the continuation distribution.
        """
        row = slice(self.starts[previous], self.starts[previous + 1])
        counts = self.counts[row]
        if not len(counts):
            return self.continuation.copy()
        total = counts.sum()
        result: NDArray[np.float64] = self.discount * len(counts) / total * self.continuation
        result[self.successors[row]] += (counts - self.discount) / total
        return result

    def logprobs(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log P(ids[i + 1] | ids[i]) for each i, shape (len(ids) - 1,); `-inf` for a word that training never met."""
        size = len(self.vocabulary)
        previous, words = ids[:-1], ids[1:]
        types = np.diff(self.starts)
        totals = np.add.reduceat(np.append(self.counts, 0), self.starts[:-1]) * (types > 0)
        keys = np.repeat(np.arange(size), types) * size + self.successors
        at = np.minimum(np.searchsorted(keys, previous * size + words), len(keys) - 1)
        counts = np.where(keys[at] == previous * size + words, self.counts[at], 0)
        total = np.maximum(totals[previous], 1)
        seen = np.maximum(counts - self.discount, 0) / total
        backoff = np.where(types[previous] > 0, self.discount * types[previous] / total, 1)
        with np.errstate(divide="ignore"):
            result: NDArray[np.float64] = np.log(seen + backoff * self.continuation[words])
        return result

    def stream(self, prompt: str, params: SamplingParams) -> AsyncGenerator[Token]:
        """Continue `prompt` from its last word alone: see `TextModel.stream`. Always yields `params.length` words unless
        a stop string ends the text: boundaries and unknown words are never generated.
        """
        return until_stop(join(prompt, self._walk(prompt.rstrip(" "), params)), params.stop)

    async def _walk(self, prompt: str, params: SamplingParams) -> AsyncGenerator[Token]:
        generator = np.random.default_rng(params.seed)
        previous = [BOUNDARY, *self.vocabulary.encode(tokenize(prompt))][-1]
        for step in range(1, params.length + 1):
            probabilities = self.probabilities(previous)
            probabilities[[BOUNDARY, UNKNOWN]] = 0
            with np.errstate(divide="ignore"):
                logprobs = np.log(probabilities / probabilities.sum())
            previous = sample(logprobs, params, generator)
            yield Token(self.vocabulary.word(previous), float(logprobs[previous]), "length" if step == params.length else None)
            await asyncio.sleep(0)  # one word at a time, so that no request holds up another

    def save(self, directory: Path) -> None:
        """Write `counts.npz` and `vocabulary.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(directory / "counts.npz", starts=self.starts, successors=self.successors, counts=self.counts)
        self.vocabulary.save(directory / "vocabulary.json")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(directory / "counts.npz", allow_pickle=False) as arrays:
            return cls(Vocabulary.load(directory / "vocabulary.json"), arrays["starts"], arrays["successors"], arrays["counts"])
