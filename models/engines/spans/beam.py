"""Beam search for the best answers that are spans of a passage. The engines compute the distributions; this is the rest."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.engines import ScoredSpan
from models.spans import Node, SpanTrie

MIN_WIDTH = 4
"""Number of beginnings that are kept at the same length, unless more spans are asked for."""


class _Hypothesis(NamedTuple):
    """A beginning of candidates."""

    ids: tuple[int, ...]
    node: Node
    logprob: float
    parent: int
    """The row of the beginning that is one token shorter."""


class SpanSearch:
    """The state of one search.

    While it is not `done`, the caller computes the distribution after each of `tokens`, where the token of row n follows the text of row
    `parents[n]` of the step before. The first step has one row, the prompt. In each step, the beginnings that are one token longer
    compete for `width` rows, the more probable ones win, and each beginning that is a candidate itself competes with the other candidates.
    The search is done when no beginning is as probable as the worst of `count` candidates, because it only becomes less probable.

    Without an end-of-text token, the end has probability 1.
    """

    def __init__(self, trie: SpanTrie, count: int, eos: frozenset[int]) -> None:
        self._trie, self._count, self._width, self._eos = trie, count, max(count, MIN_WIDTH), sorted(eos)
        self._beam = [] if trie.empty else [_Hypothesis((), trie.root, 0.0, 0)]
        self.spans: list[ScoredSpan] = []
        """Up to `count` candidates, the best one first. At least one once the search is done, if there are candidates at all."""

    @property
    def done(self) -> bool:
        """Whether the search has ended."""
        return not self._beam

    @property
    def tokens(self) -> list[int]:
        """The last token of each row. Not for the first step."""
        return [hypothesis.ids[-1] for hypothesis in self._beam]

    @property
    def parents(self) -> list[int]:
        """The row of the step before that each row continues."""
        return [hypothesis.parent for hypothesis in self._beam]

    def advance(self, logprobs: NDArray[np.float32]) -> None:
        """Take the next step. `logprobs`, of shape (rows, vocabulary), are the log-probabilities of every token after each row."""
        scores: list[NDArray[np.float64]] = []
        tokens: list[int] = []
        nodes: list[Node] = []
        parents: list[int] = []
        for parent, (hypothesis, row) in enumerate(zip(self._beam, logprobs, strict=True)):
            if self._trie.ends(hypothesis.node):
                end = float(np.logaddexp.reduce(row[self._eos], dtype=np.float64)) if self._eos else 0.0
                self.spans.append(ScoredSpan(hypothesis.ids, hypothesis.logprob + end))
            next_tokens, next_nodes = self._trie.children(hypothesis.node)
            scores.append(hypothesis.logprob + row[next_tokens].astype(np.float64))
            tokens += next_tokens.tolist()
            nodes += next_nodes
            parents += [parent] * len(next_nodes)
        self.spans = sorted(self.spans, key=lambda span: -span.logprob)[: self._count]
        longer = np.concatenate(scores)
        best = np.argsort(-longer, kind="stable")[: self._width].tolist()
        if len(self.spans) == self._count:
            best = [n for n in best if longer[n] > self.spans[-1].logprob]
        self._beam = [_Hypothesis((*self._beam[parents[n]].ids, tokens[n]), nodes[n], float(longer[n]), parents[n]) for n in best]
