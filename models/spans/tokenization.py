"""The words of a passage, and its tokens from each word on."""

import re
import unicodedata
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Ids = NDArray[np.int32]
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""


def word_offsets(text: str) -> list[tuple[int, int]]:
    """Return the offsets (start, end) of the words of a text, in order.

    A word is a maximal run of letters and digits, or any other single character that is no white space: a $, a % or a full stop. A letter
    of a script without spaces is a word too. Combining marks belong to the character before them. 99% of the answers of SQuAD begin with
    a word and end with one; the others cut a word, as "Norman" in "Normans".
    """
    combining = "".join(character for character in sorted(set(text)) if unicodedata.category(character).startswith("M"))
    marks = f"[{re.escape(combining)}]*" if combining else ""
    word = rf"[{UNSPACED}]{marks}|(?:(?![{UNSPACED}])[^\W_]{marks})+|\S{marks}"
    return [match.span() for match in re.finditer(word, text)]


def is_made_of_words(passage: str, start: int, end: int) -> bool:
    """Return whether `passage[start:end]` begins where a word begins and ends where a word ends."""
    words = word_offsets(passage)
    return any(first == start for first, _ in words) and any(last == end for _, last in words)


class _Piece(NamedTuple):
    """The tokens of a part of the passage that begins with a word, spelled after one space."""

    ids: list[int]
    ends: list[int]
    """For each token, the offset in the passage at which it ends; -1 if no word ends there, or the token ends within a character."""


class PassageTokens:
    """Tokenizes the passage from every word on.

    Nearly all tokenizers split a text before a space between words. Then the tokens from a word on are those of the rest of its chunk,
    the text up to the next such space, and those of the following chunks, which need to be encoded once only. Whether a tokenizer does so
    is tested with the passage as a whole; if it does not, the passage is encoded anew from each word on.
    """

    def __init__(self, tokenizer: Tokenizer, passage: str, max_tokens: int) -> None:
        self._tokenizer, self._passage, self._max_tokens = tokenizer, passage, max_tokens
        self._words = word_offsets(passage)
        self._word_ends = frozenset(end for _, end in self._words)

    def rows(self) -> tuple[Ids, Ids, Ids]:
        """Return the starts, ids and ends of the rows: see `Spans`. The rows are in no order and may go on after their last span."""
        starts = np.array([start for start, _ in self._words], np.int32)
        if not len(starts) or self._max_tokens < 1:
            return starts[:0], np.empty((0, 0), np.int32), np.empty((0, 0), np.int32)
        spaces = [match.start() for match in re.finditer(r"(?<=\S) (?=\S)", self._passage) if match.start() > starts[0]]
        chunk_ends = np.array([*spaces, len(self._passage)])
        chunks = np.searchsorted(chunk_ends, starts)
        furthest = [end for _, end in self._words[self._max_tokens - 1 :]]
        furthest += [len(self._passage)] * (len(starts) - len(furthest))  # more than `max_tokens` words hardly ever fit
        stops = np.minimum(chunk_ends[chunks], furthest)
        pieces = self._encode(list(zip(starts.tolist(), stops.tolist(), strict=True)))
        firsts = np.searchsorted(chunks, np.arange(len(chunk_ends)))
        whole = [pieces[first] for first in firsts.tolist()]
        text = " " + self._passage[starts[0] :]
        if self._tokenizer.encode(text, add_special_tokens=False).ids != [id for piece in whole for id in piece.ids]:
            pieces = self._encode(list(zip(starts.tolist(), furthest, strict=True)))
            whole, firsts, chunks = [], firsts[:0], np.zeros_like(chunks)
        return self._join(starts, pieces, whole, chunks, firsts)

    def _join(self, starts: Ids, pieces: list[_Piece], whole: list[_Piece], chunks: Any, firsts: Any) -> tuple[Ids, Ids, Ids]:
        """Continue the piece that begins with each word with the chunks after its own.

        `whole` are the pieces of the chunks, `chunks` the number of each word's chunk, and `firsts` the number of each chunk's first word.
        """
        depth = self._max_tokens
        lengths = np.array([len(piece.ids) for piece in pieces])
        chunk_starts = np.cumsum([0, *(len(piece.ids) for piece in whole)])
        continuations = chunk_starts[np.minimum(chunks + 1, len(whole))]
        # One array holds the tokens of all pieces, then those of the chunks, and then the filling behind the last chunk.
        column = np.arange(depth)
        offsets = (np.cumsum(lengths) - lengths)[:, None]
        behind = np.minimum(continuations[:, None] + column - lengths[:, None], chunk_starts[-1])
        places = np.where(column < lengths[:, None], offsets + column, lengths.sum() + behind)
        ids, ends = (
            np.array([token for piece in (*pieces, *whole) for token in piece[part]] + [-1], np.int32)[places] for part in range(2)
        )
        row_starts, more_ids, more_ends = [starts], [ids], [ends]
        for word, piece in self._cut_pieces(starts, pieces):
            rows, before = np.array([word]), np.zeros(1, np.int64)
            if len(firsts) and firsts[chunks[word]] == word:  # the rows of earlier words contain this piece as well
                chunk_start = chunk_starts[chunks[word]]
                near = firsts[max(0, np.searchsorted(chunk_starts, chunk_start - depth) - 1)]
                rows = np.append(np.arange(near, word), word)
                before = np.append(lengths[near:word] + chunk_start - continuations[near:word], 0)
            fitting = before + len(piece.ids) <= depth
            rows, before = rows[fitting], before[fitting]
            here = column - before[:, None]
            inside = (here >= 0) & (here < len(piece.ids))
            own = np.array(piece.ids)[np.clip(here, 0, len(piece.ids) - 1)]
            row_starts.append(starts[rows])
            more_ids.append(np.where(here < 0, ids[rows], np.where(inside, own, -1)).astype(np.int32))
            more_ends.append(np.where(here == len(piece.ids) - 1, piece.ends[-1], -1).astype(np.int32))
        return np.concatenate(row_starts), np.concatenate(more_ids), np.concatenate(more_ends)

    def _cut_pieces(self, starts: Ids, pieces: list[_Piece]) -> list[tuple[int, _Piece]]:
        """Return pieces that end within a token of the given ones, and the numbers of their first words.

        Many tokens consist of several symbols, such as the `),` after an answer in parentheses. The first of a run of symbols may end an
        answer: 0.8% of SQuAD's answers are followed by another symbol.
        """
        symbols = r"(?<=[^\W_])(?:_|[^\w\s])(?=_|[^\w\s])"
        ends = np.array([match.end() for match in re.finditer(symbols, self._passage) if match.end() in self._word_ends], np.int64)
        places = []
        for word, (start, piece) in enumerate(zip(starts.tolist(), pieces, strict=True)):
            near = slice(*np.searchsorted(ends, [start + 1, max(piece.ends, default=-1)]))
            places += [(word, (start, end)) for end in ends[near].tolist() if end not in piece.ends]
        cut = self._encode([place for _, place in places])
        return [(word, piece) for (word, _), piece in zip(places, cut, strict=True) if len(piece.ids) <= self._max_tokens]

    def _encode(self, places: list[tuple[int, int]]) -> list[_Piece]:
        """Return the pieces at these offsets."""
        texts = [f" {self._passage[start:end]}" for start, end in places]
        pieces = []
        for (start, _), encoding in zip(places, self._tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
            offsets = encoding.offsets
            ends = [start - 1 + end for _, end in offsets]
            for token, (next_start, _) in enumerate(offsets[1:]):
                if start - 1 + next_start < ends[token]:  # both are parts of one character
                    ends[token] = -1
            pieces.append(_Piece(encoding.ids, [end if end > start and end in self._word_ends else -1 for end in ends]))
        return pieces
