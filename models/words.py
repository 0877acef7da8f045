"""Words: a reversible tokenizer and a vocabulary by frequency, shared by the bigram and the LSTM."""

import json
import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.base import Prompt, Token, TokenScore, UnknownIds
from models.spelling import Spelling

# A word (with an apostrophe inside it) or one other sign, each with the space before it; every other white space stands
# alone. Each character matches one branch, so the tokens joined are the text.
_TOKEN = re.compile(r" ?\w+(?:['’]\w+)*| ?[^\w\s]|\s")

BOUNDARY, UNKNOWN = 0, 1
"""Ids of the two entries that are never generated: the boundary between texts, and any word outside the vocabulary (what such a word
costs beyond that is `models/spelling.py`'s)."""


def tokenize(text: str) -> list[str]:
    """Split `text` so that `detokenize(tokenize(text)) == text` for every string.

    The text is read as if a space stood before it, so that a word at its beginning is the same token as elsewhere.
    """
    return _TOKEN.findall(" " + text) if text else []


def detokenize(tokens: Iterable[str]) -> str:
    """The text that `tokenize` was given."""
    return "".join(tokens)[1:]


async def join(prompt: str, words: AsyncGenerator[Token]) -> AsyncGenerator[Token]:
    """Pass on `words` that continue `prompt`: after a prompt that ends with a space, the first leaves out its own.

    However this ends, `words` is closed.
    """
    spaced = prompt.endswith(" ")
    async with aclosing(words):
        async for word in words:
            yield _without_space(word) if spaced and word.count else word  # what stands for no word is the prompt itself
            spaced = spaced and not word.count


def _without_space(word: Token) -> Token:
    return replace(word, text=word.text.removeprefix(" "), scores=without_first_space(word.scores))


def without_first_space(scores: Sequence[TokenScore]) -> tuple[TokenScore, ...]:
    """The scores of a text from its beginning, of whose first token the space is none of the text's."""
    if not scores:
        return ()
    first = scores[0].text.removeprefix(" ")
    top = tuple((word.removeprefix(" "), logprob) for word, logprob in scores[0].top)
    return (replace(scores[0], text=first, characters=len(first), top=top), *scores[1:])


def require_text(prompt: Prompt) -> str:
    """The prompt of a word model, to which ids mean nothing that a client could know. Raises `UnknownIds`."""
    if not isinstance(prompt, str):
        raise UnknownIds("a word model reads text, not ids")
    return prompt


class Vocabulary:
    """Words and their ids, the most frequent first; ids 0 and 1 are the boundary and the unknown word."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self._ids = {word: id for id, word in enumerate(words, start=2)}

    def __len__(self) -> int:
        return len(self.words) + 2

    @classmethod
    def count(cls, texts: Iterable[list[str]], size: int) -> Self:
        """The most frequent tokens of tokenized `texts`, `size - 2` at most; equal counts in alphabetical order.

        A word that occurs once is left out (unless no word occurs twice): how often such words come is what tells how often a word will
        come that was never seen. Raises ValueError where there is no token at all.
        """
        counts = Counter[str]()
        for tokens in texts:
            counts.update(tokens)
        if not counts:
            raise ValueError("the corpus is empty: there is no word to learn from")
        ranked = sorted(((word, count) for word, count in counts.items() if count > 1), key=lambda item: (-item[1], item[0]))
        return cls([word for word, _ in ranked[: size - 2]] or sorted(counts)[: size - 2])

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """The ids of `tokens`; a word outside the vocabulary becomes `UNKNOWN`."""
        return [self._ids.get(token, UNKNOWN) for token in tokens]

    def stream(self, texts: Iterable[list[str]]) -> NDArray[np.int64]:
        """The ids of tokenized `texts` in a row, each behind a boundary, and a boundary at the end."""
        ids = [id for tokens in texts for id in (BOUNDARY, *self.encode(tokens))]
        return np.array([*ids, BOUNDARY], dtype=np.int64)

    def unknown(self, texts: Iterable[list[str]]) -> set[str]:
        """The different tokens of tokenized `texts` that are outside the vocabulary."""
        return {token for tokens in texts for token in tokens if token not in self._ids}

    def word(self, id: int) -> str:
        """The word of an id from 2 on, with its leading space."""
        return self.words[id - 2]

    def save(self, path: Path) -> None:
        """Write the words as a JSON list, in the order of their ids."""
        path.write_text(json.dumps(self.words, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def score(self, word: str, logprobs: NDArray[np.floating], spelling: Spelling, top: int) -> TokenScore:
        """What a model thinks of `word`, from its log-probabilities of every word, shape (V,). A word outside the vocabulary costs its
        spelling beyond the unknown word.
        """
        id = self._ids.get(word, UNKNOWN)
        logprob = float(logprobs[id]) - (math.log(2) * float(spelling.bits([word])[0]) if id == UNKNOWN else 0.0)
        most = min(top + 2, len(logprobs))  # two of them have no text
        best = np.argpartition(-logprobs, most - 1)[:most]
        named = [(self.word(int(at)), float(logprobs[at])) for at in best[np.argsort(-logprobs[best])] if at not in (BOUNDARY, UNKNOWN)]
        return TokenScore(word, len(word), logprob, tuple(named[:top]))
