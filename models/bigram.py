"""A bigram language model with interpolated Kneser-Ney smoothing, in NumPy.

P(w | v) = max(c(v w) - d, 0) / c(v) + d · |{w' : c(v w') > 0}| / c(v) · P_continuation(w), where P_continuation(w) is the share of
distinct bigrams that end in w. The absolute discount is d = n1 / (n1 + 2 n2), where n1 and n2 are the numbers of distinct bigrams that
occur exactly once and twice. Kneser & Ney 1995, in the form of Chen & Goodman 1999, section 2.7, https://doi.org/10.1006/csla.1999.0128.
"""

import asyncio
import itertools
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from models.base import NOTHING_GENERATED, Logprob, Prompt, PromptLogprobs, SamplingParams, Token, join, until_stop
from models.counting.keys import AT_ONCE, count_keys
from models.row_sampler import RankedWords, RowSampler
from models.spelling import Spelling
from models.turns import Turns
from models.words import (
    BOUNDARY,
    UNKNOWN,
    Vocabulary,
    continue_spacing,
    count_tokens,
    fit_vocabulary,
    iterate_tokens,
    last_token,
    prompt_logprobs,
    require_text,
    tokenize,
)

CACHED_SAMPLERS = 4
"""Number of combinations of temperature, top-k and top-p whose samplers are kept."""
WORDS_PER_TURN = 32
"""Words generated before another text gets its turn: about a tenth of a millisecond."""
SCORED_WORDS_PER_TURN = 8
"""The same for words with log-probabilities, which take five times as long."""
LONG_WORD = 500
"""A longer word, in characters, is scored in a thread: spelling one of 20,000 characters takes ten milliseconds."""


class Bigram:
    """Counts of word pairs as a sparse matrix in CSR form: row v holds the words that followed v, and how often each did.

    For a vocabulary of V words, `starts`, shape (V + 1,), holds the position where each row begins. `successors` (ids in ascending order
    within a row) and `counts` have one entry for each distinct bigram.
    """

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
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        self.discount = once / (once + 2 * twice) if once and twice else 0.5
        self.totals = np.zeros(len(vocabulary), np.int64)
        """c(v), shape (V,)."""
        followed = np.flatnonzero(np.diff(starts))
        self.totals[followed] = np.add.reduceat(counts, starts[followed], dtype=np.int64)
        self.continuation = _normalize(_occurrences(successors, len(vocabulary)))
        """P_continuation, shape (V,)."""
        self._samplers: OrderedDict[tuple[float, int, float], RowSampler] = OrderedDict()
        self._turns = Turns()

    @classmethod
    def fit(cls, texts: Iterable[str], vocabulary_size: int = 30_000, at_once: int = AT_ONCE) -> Self:
        """Count the bigrams of `texts`, with a boundary before and after each text. Raises ValueError if the texts contain no word.

        The texts are read twice, one at a time, and `at_once` bigrams are counted in memory, so that the texts may be larger than
        memory. The model may not: it takes 8 bytes for each distinct bigram.
        """
        vocabulary, spelling = fit_vocabulary(texts, vocabulary_size)
        size = len(vocabulary)
        encoded = (vocabulary.encode_texts([tokenize(text)]) for text in texts)
        row_lengths = np.zeros(size, np.int64)
        with TemporaryFile() as successors, TemporaryFile() as counts:  # in memory, joining the blocks would take the model twice
            for keys, block_counts in count_keys((ids[:-1] * size + ids[1:] for ids in encoded), at_once):
                rows, words = np.divmod(keys, size)
                row_lengths += np.bincount(rows, minlength=size)
                successors.write(words.astype(np.int32).data)
                counts.write(block_counts.astype(np.int32).data)
            return cls(vocabulary, spelling, np.append(0, row_lengths.cumsum()), _read(successors), _read(counts))

    def unigram(self) -> Self:
        """Return a unigram model, which predicts each word by its relative frequency: a bigram model whose rows are empty."""
        model = type(self)(self.vocabulary, self.spelling, np.zeros_like(self.starts), self.successors[:0], self.counts[:0])
        model.continuation = _normalize(np.bincount(self.successors, self.counts, minlength=len(self.vocabulary)))
        return model

    @property
    def parameters(self) -> int:
        """The number of counts above zero; for a unigram model, the number of words."""
        return len(self.counts) or len(self.vocabulary)

    def row(self, previous: int) -> tuple[NDArray[np.int32], NDArray[np.float64], float]:
        """Return the parts of P(· | previous): the successors of `previous` in training, their discounted relative frequencies, and the
        weight of the backoff, which multiplies P_continuation of every word. The weight is 1 if `previous` has no successor.
        """
        row = slice(self.starts[previous], self.starts[previous + 1])
        counts, total = self.counts[row], self.totals[previous]
        if not total:
            return self.successors[row], np.zeros(0), 1.0
        return self.successors[row], (counts - self.discount) / total, float(self.discount * len(counts) / total)

    def probabilities(self, previous: int) -> NDArray[np.float64]:
        """Return P(· | previous), shape (V,), which sums to 1. If `previous` has no successor, as the unknown word has none when the
        vocabulary covers all of training, this is P_continuation.
        """
        successors, seen, backoff = self.row(previous)
        result: NDArray[np.float64] = backoff * self.continuation
        result[successors] += seen
        return result

    def logprobs(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return log P(ids[i + 1] | ids[i]) for each i, shape (len(ids) - 1,)."""
        previous, words = ids[:-1], ids[1:]
        row_lengths = np.diff(self.starts)
        counts = np.array([self._count(*pair) for pair in itertools.pairwise(ids.tolist())])
        total = np.maximum(self.totals[previous], 1)
        seen = np.maximum(counts - self.discount, 0) / total
        backoff = np.where(row_lengths[previous] > 0, self.discount * row_lengths[previous] / total, 1)
        result: NDArray[np.float64] = np.log(seen + backoff * self.continuation[words])
        return result

    def _count(self, previous: int, word: int) -> int:
        """Return c(previous word)."""
        start, end = self.starts[previous], self.starts[previous + 1]
        place = start + self.successors[start:end].searchsorted(word)
        return int(self.counts[place]) if place < end and self.successors[place] == word else 0

    def count(self, prompt: Prompt) -> int:
        """See `TextModel`."""
        return count_tokens(require_text(prompt))

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """Continue `prompt`: see `TextModel.stream`. Only its last word matters.

        Yields exactly `params.length` words unless a stop string ends the text, because boundaries and unknown words are never generated.
        """
        text = require_text(prompt)
        is_plain = params.final_only and not params.stop and params.logprobs is None and not params.cumulative_logprob
        words = self._generate_whole(text, params) if is_plain else self._generate(text, params)
        return until_stop(continue_spacing(text, words), params.stop)

    async def stream_with_prompt_logprobs(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[PromptLogprobs | Token]:
        """See `TextModel.stream_with_prompt_logprobs`."""
        words = iterate_tokens(require_text(prompt).rstrip(" "))
        is_first = True
        async with aclosing(self._score(words, params.logprobs or 0)) as pieces:
            async for piece in pieces:
                yield prompt_logprobs(piece) if is_first else PromptLogprobs(tuple(piece))
                is_first = False
        async with aclosing(self.stream(prompt, params)) as tokens:
            async for token in tokens:
                yield token

    async def _generate(self, text: str, params: SamplingParams) -> AsyncGenerator[Token]:
        """Yield the words after `text`: one by one, or with a flush interval the first one and then those of each turn."""
        if not params.length:
            yield NOTHING_GENERATED
            return
        if params.logprobs is not None:
            await self._prepare_scoring()
        flushes, count = bool(params.flush_interval and not params.stop), 0
        async with aclosing(self._draw(text, params)) as turns:
            async for previous, ids in turns:
                tokens: list[Token] = []
                for id in ids:
                    count += 1
                    word = self.vocabulary.word(id)
                    token = Token(
                        word,
                        cumulative_logprob=self.drawable_logprob(previous, id) if params.cumulative_logprob else None,
                        finish_reason="length" if count == params.length else None,
                        logprobs=() if params.logprobs is None else (self._logprob(previous, word, params.logprobs),),
                    )
                    if flushes and count > 1:
                        tokens.append(token)
                    else:
                        yield token
                    previous = id
                if tokens:
                    yield join(tokens)

    async def _generate_whole(self, text: str, params: SamplingParams) -> AsyncGenerator[Token]:
        """Yield the words after `text` as one token."""
        words: list[str] = []
        async with aclosing(self._draw(text, params)) as turns:
            async for _, ids in turns:
                words += map(self.vocabulary.word, ids)
        yield Token("".join(words), finish_reason="length", count=params.length)

    async def _draw(self, text: str, params: SamplingParams) -> AsyncGenerator[tuple[int, list[int]]]:
        """Draw the words after `text`. Yields, for each turn, the id of the word before and those of the new words."""
        is_scored = params.logprobs is not None or params.cumulative_logprob
        words_per_turn = SCORED_WORDS_PER_TURN if is_scored else WORDS_PER_TURN
        turn = await self._turns.take(0)
        (previous,) = self.vocabulary.encode(last_token(text.rstrip(" "))) or [BOUNDARY]  # a space at the end belongs to the next word
        generator, sampler = np.random.default_rng(params.seed), self._sampler(params)
        uniforms = (uniform for _ in itertools.count() for uniform in generator.random(WORDS_PER_TURN).tolist())
        count = 0
        while count < params.length:
            if count:
                turn = await self._turns.take(count)
            id, ids = previous, list[int]()
            for uniform in itertools.islice(uniforms, min(words_per_turn, params.length - count)):
                id = sampler.draw(id, uniform)
                ids.append(id)
                if turn.is_over:
                    break
            yield previous, ids
            previous, count = id, count + len(ids)

    async def _score(self, words: Iterator[str], top: int) -> AsyncGenerator[list[Logprob]]:
        """Yield the entries of a text's words, in pieces as large as a turn allows."""
        await self._prepare_scoring()
        previous, piece, turn = BOUNDARY, list[Logprob](), await self._turns.take(0)
        for count, word in enumerate(words):
            if piece and turn.is_over:
                yield piece
                piece, turn = [], await self._turns.take(count)
            if len(word) <= LONG_WORD:
                piece.append(self._logprob(previous, word, top))
            else:
                piece.append(await asyncio.to_thread(self._logprob, previous, word, top))
            previous = self.vocabulary.id(word)
        yield piece

    async def _prepare_scoring(self) -> None:
        """Read the spelling model, which takes a moment the first time, in a thread."""
        if not self.spelling.is_ready:
            await asyncio.to_thread(self.spelling.prepare)

    def drawable_logprob(self, previous: int, id: int) -> float:
        """Return the natural log-probability of `id` after `previous` among the words that can be drawn."""
        probabilities = self.probabilities(previous)
        return math.log(probabilities[id] / (1 - probabilities[[BOUNDARY, UNKNOWN]].sum()))

    def _logprob(self, previous: int, word: str, top: int) -> Logprob:
        """Return the entry of `word` after `previous`.

        The most probable words are among the successors of `previous` and those with the highest P_continuation: no pass over the
        vocabulary is needed.
        """
        successors, seen, backoff = self.row(previous)
        best = self._ranked_words.ids[:top]
        others = [other for other in best if not _contains(successors, other)]
        candidates = np.concatenate([successors, np.array(others, np.int32)])
        probabilities = backoff * self.continuation[candidates]
        probabilities[: len(successors)] += seen
        id = self.vocabulary.id(word)
        is_successor = _contains(successors, id)
        probability = float(probabilities[successors.searchsorted(id)] if is_successor else backoff * self.continuation[id])
        return self.vocabulary.logprob_among(word, math.log(probability), candidates, np.log(probabilities), self.spelling, top)

    def _sampler(self, params: SamplingParams) -> RowSampler:
        """Return the sampler for these parameters, with the rows that it has prepared. The least recently used sampler is dropped."""
        key = (1.0, 1, 1.0) if params.greedy else (params.temperature, params.top_k, params.top_p)
        sampler = self._samplers.pop(key, None) or RowSampler(self.row, self._ranked_words, *key)
        self._samplers[key] = sampler
        if len(self._samplers) > CACHED_SAMPLERS:
            self._samplers.popitem(last=False)
        return sampler

    @cached_property
    def _ranked_words(self) -> RankedWords:
        return RankedWords(self.continuation, never=[BOUNDARY, UNKNOWN])

    def save(self, directory: Path) -> None:
        """Write `counts.npz`, `vocabulary.json` and `spelling.npz`."""
        directory.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(directory / "counts.npz", starts=self.starts, successors=self.successors, counts=self.counts)
        self.vocabulary.save(directory / "vocabulary.json")
        self.spelling.save(directory / "spelling.npz")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read a model that `save` wrote."""
        vocabulary, spelling = Vocabulary.load(directory / "vocabulary.json"), Spelling.load(directory / "spelling.npz")
        with np.load(directory / "counts.npz", allow_pickle=False) as arrays:
            return cls(vocabulary, spelling, arrays["starts"], arrays["successors"], arrays["counts"])


def _contains(ascending: NDArray[np.int32], value: int) -> bool:
    place = int(ascending.searchsorted(value))
    return place < len(ascending) and bool(ascending[place] == value)


def _read(file: IO[bytes]) -> NDArray[np.int32]:
    file.seek(0)
    return np.fromfile(file, np.int32)


def _occurrences(ids: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    """Return how often each id below `size` occurs: `bincount`, which makes a copy with 8 bytes for each id, part by part."""
    counts = np.zeros(size, np.int64)
    for start in range(0, len(ids), AT_ONCE):
        counts += np.bincount(ids[start : start + AT_ONCE], minlength=size)
    return counts


def _normalize(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn word counts into probabilities. The unknown word counts at least once, because unseen text may contain one."""
    counts[UNKNOWN] = max(counts[UNKNOWN], 1)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares
