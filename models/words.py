"""Words: a reversible tokenizer and a vocabulary by frequency, shared by the bigram and the LSTM."""

import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.base import Token

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
            yield replace(word, text=word.text.removeprefix(" ")) if spaced else word
            spaced = False


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
