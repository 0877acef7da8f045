"""The candidates for an answer that must be a span of a passage. `models/engines/spans/` searches for the best ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.spans.tokenization import Ids, PassageTokens


class Node(NamedTuple):
    """A node of a `SpanTrie`: the rows from `first` to before `last` have the same first `depth` tokens."""

    first: int
    last: int
    depth: int


@dataclass(frozen=True)
class SpanTrie:
    """The token ids of the candidates. Each row is a path from the root; rows with the same beginning share nodes.

    Every path leads to a candidate.
    """

    ids: Ids
    """Shape (rows, tokens), with -1 after the end of a row; the rows are in lexicographic order."""
    may_end: NDArray[np.bool_]
    """Shape (rows, tokens): whether a candidate ends with this token."""

    @property
    def empty(self) -> bool:
        """Whether there is no candidate."""
        return not len(self.ids)

    @property
    def depth(self) -> int:
        """Number of tokens of the longest candidate."""
        return int(self.ids.shape[1])

    @property
    def root(self) -> Node:
        """The node of no tokens."""
        return Node(0, len(self.ids), 0)

    def ends(self, node: Node) -> bool:
        """Whether the tokens up to `node` are a candidate."""
        return node.depth > 0 and bool(self.may_end[node.first : node.last, node.depth - 1].any())

    def children(self, node: Node) -> tuple[Ids, list[Node]]:
        """Return the ids of the tokens that may follow, in ascending order, and the node that each of them leads to."""
        if node.depth == self.depth:
            return np.empty(0, np.int32), []
        column = self.ids[node.first : node.last, node.depth]
        tokens, firsts = np.unique(column, return_index=True)
        bounds = [node.first + first for first in (*firsts.tolist(), len(column))]
        nodes = [Node(first, last, node.depth + 1) for first, last in pairwise(bounds)]
        ended = int(len(tokens) > 0 and tokens[0] < 0)
        return tokens[ended:], nodes[ended:]

    def find(self, ids: Sequence[int]) -> Node | None:
        """Return the node of a sequence of tokens; None if no candidate begins with them."""
        node = self.root
        for id in ids:
            tokens, nodes = self.children(node)
            place = int(np.searchsorted(tokens, id))
            if place == len(tokens) or tokens[place] != id:
                return None
            node = nodes[place]
        return node


@dataclass(frozen=True)
class Spans:
    """The candidates of a passage: every span of up to `max_tokens` tokens that begins where a word begins and ends where a word ends.

    As an answer, a span is spelled after one space (`models.llm.answer_text`), and these are the ids of that text.
    """

    trie: SpanTrie
    starts: Ids
    """Shape (rows,): the offset in the passage at which the spans of a row of `trie` begin."""
    ends: Ids
    """Shape (rows, tokens): the offset after the span that ends with this token; -1 if none does."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, passage: str, max_tokens: int) -> Self:
        """Find the candidates of `passage`. Takes time in proportion to its length and to `max_tokens`: call it in a thread."""
        return cls._of_rows(*PassageTokens(tokenizer, passage, max_tokens).rows())

    @classmethod
    def _of_rows(cls, starts: Ids, ids: Ids, ends: Ids) -> Self:
        """Cut each row after its last span, drop the rows without spans, and sort the others."""
        columns = np.arange(ids.shape[1])
        lengths = np.where(ends >= 0, columns + 1, 0).max(1, initial=0)
        kept, depth = lengths > 0, int(lengths.max(initial=0))
        starts, lengths, ids, ends = starts[kept], lengths[kept], ids[kept, :depth], ends[kept, :depth]
        ids = np.where(columns[:depth] < lengths[:, None], ids, np.int32(-1))
        order = np.lexsort([starts, *ids.T[::-1]])
        return cls(SpanTrie(ids[order], ends[order] >= 0), starts[order], ends[order])

    def occurrences(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return the offsets (start, end) of each place in the passage where the span with these ids stands, in order.

        The list is empty if the ids are not those of a candidate.
        """
        node = self.trie.find(ids)
        if node is None or not node.depth:
            return []
        rows = slice(node.first, node.last)
        places = zip(self.starts[rows].tolist(), self.ends[rows, node.depth - 1].tolist(), strict=True)
        return sorted((start, end) for start, end in places if end >= 0)
