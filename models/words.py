"""A reversible word tokenizer and a vocabulary of the most frequent words, shared by the bigram and the LSTM."""

import itertools
import json
import math
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.base import Logprob, Prompt, PromptLogprobs, Token, UnknownIds
from models.counting.words import WordCounts
from models.spelling import Spelling

# A word (which may contain apostrophes) or a single punctuation mark or symbol, each with the space before it; any other white space is a
# token by itself. Every character matches exactly one branch, so joining the tokens restores the text.
_TOKEN = re.compile(r" ?\w+(?:['’]\w+)*| ?[^\w\s]|\s")

BOUNDARY, UNKNOWN = 0, 1
"""Ids of the two entries that are never generated: the boundary between texts, and any word outside the vocabulary
(`models/spelling.py` charges such a word for its spelling)."""
SPELLED_WORDS = 500_000
"""The maximum number of words outside the vocabulary from which their spelling is learned. It limits the size of a model of much text;
SQuAD has 77,000."""


def tokenize(text: str) -> list[str]:
    """Split `text` into tokens such that `detokenize(tokenize(text)) == text` for every string.

    A space is put in front of the text first, so that its first word is the same token as anywhere else.
    """
    return _TOKEN.findall(" " + text if text else "")


def iterate_tokens(text: str) -> Iterator[str]:
    """Yield the tokens of `tokenize` one by one: a long text would hold up the event loop for milliseconds."""
    return (match[0] for match in _TOKEN.finditer(" " + text if text else ""))


def count_tokens(text: str) -> int:
    """Return the number of tokens of `tokenize`. In a thread, this lets the event loop go on in between."""
    return sum(1 for _ in iterate_tokens(text))


def last_token(text: str) -> list[str]:
    """Return the last token of `tokenize`, or none for an empty text, without reading the whole text."""
    start = len(text)
    while start and (text[start - 1].isalnum() or text[start - 1] in "_'’"):
        start -= 1
    # What stands before these characters ends a token, unless it is the space that belongs to them.
    if start == len(text) and start:
        start -= 1
    if start and text[start - 1] == " ":
        start -= 1
    return (_TOKEN.findall(text[start:]) if start else tokenize(text))[-1:]


def detokenize(tokens: Iterable[str]) -> str:
    """Return the text that `tokenize` split into `tokens`."""
    return "".join(tokens)[1:]


def require_text(prompt: Prompt) -> str:
    """Return `prompt` if it is a text. Raises `UnknownIds` for ids: clients do not know the ids of a word model."""
    if not isinstance(prompt, str):
        raise UnknownIds("the word models accept text, not token ids")
    return prompt


async def continue_spacing(prompt: str, words: AsyncGenerator[Token]) -> AsyncGenerator[Token]:
    """Yield `words`, dropping the first word's leading space if `prompt` already ends with one. Closes `words` in any case."""
    drop_space = prompt.endswith(" ")
    async with aclosing(words):
        async for word in words:
            if drop_space:
                drop_space = False
                yield without_leading_space(word)
            else:
                yield word


def without_leading_space(word: Token) -> Token:
    """Return the first word after a prompt that ends with a space."""
    return replace(word, text=word.text.removeprefix(" "), logprobs=_without_leading_space(word.logprobs))


def prompt_logprobs(logprobs: Sequence[Logprob]) -> PromptLogprobs:
    """Return the log-probabilities of a prompt's words, without the space that `tokenize` put in front of the text."""
    return PromptLogprobs(_without_leading_space(logprobs))


def _without_leading_space(logprobs: Sequence[Logprob]) -> tuple[Logprob, ...]:
    """Drop the leading space of the first token and of its alternatives."""
    if not logprobs:
        return ()
    first, *rest = logprobs
    text = first.text.removeprefix(" ")
    top = tuple((word.removeprefix(" "), logprob) for word, logprob in first.top)
    return (replace(first, text=text, characters=len(text), top=top), *rest)


class Vocabulary:
    """Words and their ids in descending order of frequency. Ids 0 and 1 are the boundary and the unknown word."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self._ids = {word: id for id, word in enumerate(words, start=2)}

    def __len__(self) -> int:
        return len(self.words) + 2

    @classmethod
    def choose(cls, counts: WordCounts, size: int) -> Self:
        """Keep up to `size - 2` of the most frequent words; ties are broken alphabetically.

        Words that occur once are left out (unless no word occurs twice): they stand in for words that training never saw, so their
        frequency estimates how often an unseen word will occur. Raises ValueError if there is no word at all.
        """
        if not len(counts):
            raise ValueError("the corpus is empty: there is no word to learn from")
        ranked = counts.most_frequent(size - 2)
        return cls([word for word, count in ranked if count > 1] or [word for word, _ in ranked])

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of `tokens`. A word outside the vocabulary becomes `UNKNOWN`."""
        return [self._ids.get(token, UNKNOWN) for token in tokens]

    def encode_texts(self, texts: Iterable[list[str]]) -> NDArray[np.int64]:
        """Return the ids of tokenized `texts` in one row, with a boundary before each text and at the end."""
        return np.concatenate([*(np.array([BOUNDARY, *self.encode(tokens)], np.int64) for tokens in texts), np.array([BOUNDARY], np.int64)])

    def word(self, id: int) -> str:
        """Return the word of an id (2 or above), with its leading space."""
        return self.words[id - 2]

    def id(self, word: str) -> int:
        """Return the id of a word, `UNKNOWN` if it is outside the vocabulary."""
        return self._ids.get(word, UNKNOWN)

    def logprob(self, word: str, logprobs: NDArray[np.floating], spelling: Spelling, top: int) -> Logprob:
        """Return the entry of `word` and the `top` most probable words, given the log-probabilities of the whole vocabulary, shape (V,).

        A word outside the vocabulary has the probability of the unknown word times that of its spelling.
        """
        candidates = min(top + 2, len(logprobs))  # two more, because the boundary and the unknown word have no text
        best = np.argpartition(-logprobs, candidates - 1)[:candidates]
        return self.logprob_among(word, float(logprobs[self.id(word)]), best, logprobs[best], spelling, top)

    def logprob_among(
        self, word: str, logprob: float, candidates: NDArray[np.integer], logprobs: NDArray[np.floating], spelling: Spelling, top: int
    ) -> Logprob:
        """Return the same as `logprob`, given the log-probability of `word`'s id, and the ids and log-probabilities of words that include
        the `top` most probable ones.
        """
        if self.id(word) == UNKNOWN:
            logprob -= math.log(2) * float(spelling.bits([word])[0])
        best = np.argsort(-logprobs, kind="stable")[: top + 2]
        named = [
            (self.word(id), value) for id, value in zip(candidates[best].tolist(), logprobs[best].tolist(), strict=True) if id > UNKNOWN
        ]
        return Logprob(word, len(word), logprob, tuple(named[:top]))

    def save(self, path: Path) -> None:
        """Write the words as a JSON list in the order of their ids."""
        path.write_text(json.dumps(self.words, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a vocabulary that `save` wrote."""
        return cls(json.loads(path.read_text(encoding="utf-8")))


def fit_vocabulary(texts: Iterable[str], size: int) -> tuple[Vocabulary, Spelling]:
    """Choose the vocabulary of a corpus, and learn the spelling of the words outside of it, in memory that the corpus does not determine.

    Of more than `SPELLED_WORDS` such words, every second, third and so on in alphabetical order is learned from. Raises ValueError if the
    texts contain no word.
    """
    with WordCounts(map(tokenize, texts)) as counts:
        vocabulary = Vocabulary.choose(counts, size)
        unknown = (word for word in counts if vocabulary.id(word) == UNKNOWN)
        step = math.ceil((len(counts) - len(vocabulary.words)) / SPELLED_WORDS)
        return vocabulary, Spelling.fit(itertools.islice(unknown, 0, None, max(1, step)))
