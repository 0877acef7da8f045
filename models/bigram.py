"""A bigram language model with interpolated Kneser-Ney smoothing, in NumPy.

P(w | v) = max(c(v w) - d, 0) / c(v) + d · |{w' : c(v w') > 0}| / c(v) · P_continuation(w), where P_continuation(w) is the share of
distinct bigrams that end in w. Absolute discount d = n1 / (n1 + 2 n2). Kneser & Ney 1995; in this form Chen & Goodman 1999, section 2.7,
https://doi.org/10.1006/csla.1999.0128.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.base import Prompt, SamplingParams, Token, TokenScore, prompt_token, until_stop
from models.row_sampler import Continuation, RowSampler
from models.spelling import Spelling
from models.words import BOUNDARY, UNKNOWN, Vocabulary, join, require_text, tokenize, without_first_space

SAMPLERS = 4
"""Combinations of temperature, top-k and top-p that are kept ready."""
PAUSE = 16
"""Words between two pauses in which other requests go on: about a tenth of a millisecond."""


class Bigram:
    """Counts of word pairs as a sparse matrix in CSR form: row v holds the words that followed v, and how often."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        spelling: Spelling,
        starts: NDArray[np.int64],
        successors: NDArray[np.int32],
        counts: NDArray[np.int32],
    ) -> None:
        self.vocabulary, self.spelling = vocabulary, spelling
        self.starts, self.successors, self.counts = starts, successors, counts
        """`starts` (V + 1): where each row begins. `successors`, `counts` (distinct bigrams): ids in ascending order, and counts."""
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        self.discount = once / (once + 2 * twice) if once and twice else 0.5
        self.totals = np.diff(np.concatenate([[0], counts.cumsum(dtype=np.int64)])[starts])
        """c(v), shape (V,)."""
        self.continuation = _shares(np.bincount(successors, minlength=len(vocabulary)))
        """P_continuation, shape (V,)."""
        self._samplers: OrderedDict[tuple[float, int, float], RowSampler] = OrderedDict()

    @classmethod
    def fit(cls, texts: Iterable[str], vocabulary_size: int = 30_000) -> Self:
        """Count the bigrams of `texts`, each text between boundaries of its own.

        Raises ValueError where the texts hold no word.
        """
        tokenized = [tokenize(text) for text in texts]
        vocabulary = Vocabulary.count(tokenized, vocabulary_size)
        spelling = Spelling.fit(vocabulary.unknown(tokenized))
        ids = vocabulary.stream(tokenized)
        size = len(vocabulary)
        pairs, counts = np.unique(ids[:-1] * size + ids[1:], return_counts=True)
        rows, successors = np.divmod(pairs, size)
        starts = np.searchsorted(rows, np.arange(size + 1))
        return cls(vocabulary, spelling, starts, successors.astype(np.int32), counts.astype(np.int32))

    def unigram(self) -> Self:
        """The words without their neighbours, by relative frequency: a model whose rows are empty."""
        rows = np.zeros_like(self.starts)
        result = type(self)(self.vocabulary, self.spelling, rows, self.successors[:0], self.counts[:0])
        result.continuation = _shares(np.bincount(self.successors, self.counts, minlength=len(self.vocabulary)))
        return result

    @property
    def parameters(self) -> int:
        """The counts above zero; of a unigram one a word."""
        return len(self.counts) or len(self.vocabulary)

    def row(self, previous: int) -> tuple[NDArray[np.int32], NDArray[np.float64], float]:
        """What P(· | previous) is made of: the words that followed in training; what each has beyond its share of the back-off; and the
        back-off's weight, by which P_continuation of every word is multiplied. The weight is 1 where nothing followed.
        """
        part = slice(self.starts[previous], self.starts[previous + 1])
        counts, total = self.counts[part], self.totals[previous]
        if not total:
            return self.successors[part], np.zeros(0), 1.0
        return self.successors[part], (counts - self.discount) / total, float(self.discount * len(counts) / total)

    def probabilities(self, previous: int) -> NDArray[np.float64]:
        """P(· | previous), shape (V,), summing to 1. A word without a successor, such as one outside the vocabulary that
        was never met in training, gives the continuation distribution.
        """
        successors, seen, backoff = self.row(previous)
        result: NDArray[np.float64] = backoff * self.continuation
        result[successors] += seen
        return result

    def logprobs(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log P(ids[i + 1] | ids[i]) for each i, shape (len(ids) - 1,)."""
        size = len(self.vocabulary)
        previous, words = ids[:-1], ids[1:]
        types = np.diff(self.starts)
        keys = np.append(np.repeat(np.arange(size), types) * size + self.successors, size**2)  # one behind all that are looked for
        at = np.searchsorted(keys, previous * size + words)
        counts = np.where(keys[at] == previous * size + words, np.append(self.counts, 0)[at], 0)
        total = np.maximum(self.totals[previous], 1)
        seen = np.maximum(counts - self.discount, 0) / total
        backoff = np.where(types[previous] > 0, self.discount * types[previous] / total, 1)
        result: NDArray[np.float64] = np.log(seen + backoff * self.continuation[words])
        return result

    def count(self, prompt: Prompt) -> int:
        """See `TextModel`."""
        return len(tokenize(require_text(prompt)))

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """Continue `prompt` from its last word alone: see `TextModel.stream`. Always yields `params.length` words unless
        a stop string ends the text: boundaries and unknown words are never generated.
        """
        text = require_text(prompt)
        return until_stop(join(text, self._walk(text.rstrip(" "), params)), params.stop)

    async def _walk(self, prompt: str, params: SamplingParams) -> AsyncGenerator[Token]:
        generator, sampler = np.random.default_rng(params.seed), self._sampler(params)
        words = tokenize(prompt)
        for token in prompt_token(params, await self._read(words, params)):
            yield token
        previous = [BOUNDARY, *self.vocabulary.encode(words)][-1]
        for first in range(0, params.length, PAUSE):
            for step, uniform in enumerate(generator.random(PAUSE).tolist()[: params.length - first], start=first + 1):
                before = previous
                previous, logprob = sampler.draw(before, uniform)
                word = self.vocabulary.word(previous)
                scores = () if params.scores is None else (self._score(before, word, params.scores),)
                yield Token(word, logprob, "length" if step == params.length else None, scores=scores)
            await asyncio.sleep(0)

    async def _read(self, words: list[str], params: SamplingParams) -> tuple[TokenScore, ...]:
        """The scores of a prompt's words, if they are wanted."""
        scores: list[TokenScore] = []
        if params.prompt_scores and params.scores is not None:
            for previous, word in zip([BOUNDARY, *self.vocabulary.encode(words)], words, strict=False):
                scores.append(self._score(previous, word, params.scores))
                await asyncio.sleep(0)
        return without_first_space(scores)

    def _score(self, previous: int, word: str, top: int) -> TokenScore:
        return self.vocabulary.score(word, np.log(self.probabilities(previous)), self.spelling, top)

    def _sampler(self, params: SamplingParams) -> RowSampler:
        """The sampler for these parameters, with what it remembers of the rows that it met; the one that was used longest ago goes."""
        key = (1.0, 1, 1.0) if params.greedy else (params.temperature, params.top_k, params.top_p)
        sampler = self._samplers.pop(key, None) or RowSampler(self.row, self._continuation, *key)
        self._samplers[key] = sampler
        if len(self._samplers) > SAMPLERS:
            self._samplers.popitem(last=False)
        return sampler

    @cached_property
    def _continuation(self) -> Continuation:
        return Continuation(self.continuation, never=[BOUNDARY, UNKNOWN])

    def save(self, directory: Path) -> None:
        """Write `counts.npz`, `vocabulary.json` and `spelling.npz`."""
        directory.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(directory / "counts.npz", starts=self.starts, successors=self.successors, counts=self.counts)
        self.vocabulary.save(directory / "vocabulary.json")
        self.spelling.save(directory / "spelling.npz")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        words, spelling = Vocabulary.load(directory / "vocabulary.json"), Spelling.load(directory / "spelling.npz")
        with np.load(directory / "counts.npz", allow_pickle=False) as arrays:
            return cls(words, spelling, arrays["starts"], arrays["successors"], arrays["counts"])


def _shares(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts of words as probabilities. Where training met no unknown word, the next text may: it has one count at least."""
    counts[UNKNOWN] = max(counts[UNKNOWN], 1)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares
