"""Draws from the rows of a bigram model by binary search in cumulative sums, with temperature, top-k and top-p.

A row is sparse: the words that followed, with probabilities of their own, and behind them all words of the vocabulary, by P_continuation
times one weight. So P(w)^(1/T), for temperature T, is a sum too: (weight · P_continuation(w))^(1/T), whose cumulative sum over the words
in descending order is the same for all rows, and for the words that followed what they have beyond that. Of the words in descending
order top-k and top-p keep a beginning: so many of the words that followed, and so many of all words. Nothing of a row's draw has the
size of the vocabulary.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = Callable[[int], tuple[NDArray[np.int32], Floats, float]]
"""`Bigram.row`."""


class Continuation:
    """All words that may be drawn, the most probable first, equal ones by their ids."""

    def __init__(self, probabilities: Floats, never: list[int]) -> None:
        allowed = probabilities.copy()
        allowed[never] = 0
        order = np.argsort(-allowed, kind="stable")[: int((allowed > 0).sum())]
        self.ids: list[int] = order.tolist()
        self.probabilities: Floats = allowed[order]
        self.ranks = np.full(len(probabilities), len(order), dtype=np.int64)
        """The place of each word in this order, shape (V,); behind all for those that are never drawn."""
        self.ranks[order] = np.arange(len(order))
        self.ascending = self.probabilities[::-1].copy()
        self.listed: list[float] = self.probabilities.tolist()
        self.total = float(self.probabilities.sum())


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A row, ready to be drawn from: first the words that followed, then all words."""

    ids: NDArray[np.int32]
    """The words that followed and are kept, the most probable first, …"""
    probability: Floats
    """… their P, …"""
    cumulative: Floats
    """… and sums of what they have beyond their share in the second part."""
    own: float
    """The last of them."""
    scale: float
    """Of the second part: its weight to the power of 1 / T."""
    kept: int
    """How many of all words are in the second part."""
    total: float
    successors: NDArray[np.int32]
    seen: Floats
    backoff: float
    """What `Bigram.row` says, and …"""
    allowed: float
    """… what all words that may be drawn have together."""


class RowSampler:
    """Draws at one setting. Rows are prepared when they are met first, and remembered: all of them take some thirty bytes a bigram."""

    def __init__(self, row: Row, continuation: Continuation, temperature: float, top_k: int, top_p: float) -> None:
        self._row, self._continuation = row, continuation
        self._power, self._top_k, self._top_p = 1 / temperature, top_k, top_p
        # Powers of shares of the largest: for a small temperature those of the probabilities themselves would all be 0.
        self._weights = (continuation.probabilities / continuation.probabilities[0]) ** self._power
        self._cumulative: list[float] = [0.0, *self._weights.cumsum().tolist()]
        self._prepared: dict[int, _Prepared] = {}

    def draw(self, previous: int, uniform: float) -> tuple[int, float]:
        """The next word after `previous` for a number drawn uniformly from [0, 1), and the natural logarithm of its probability among the
        words that may be drawn.
        """
        row = self._prepared.get(previous)
        if row is None:
            row = self._prepared[previous] = self._prepare(previous)
        target = uniform * row.total
        if target < row.own or not row.kept:
            place = min(int(row.cumulative.searchsorted(target, "right")), len(row.ids) - 1)
            id, probability = int(row.ids[place]), float(row.probability[place])
        else:
            place = min(bisect_right(self._cumulative, (target - row.own) / row.scale, 0, row.kept + 1) - 1, row.kept - 1)
            id = self._continuation.ids[place]
            probability = row.backoff * self._continuation.listed[place]
            at = int(row.successors.searchsorted(id))
            if at < len(row.successors) and row.successors[at] == id:
                probability += float(row.seen[at])
        return id, math.log(probability / row.allowed)

    def _prepare(self, previous: int) -> _Prepared:
        everything = self._continuation
        successors, seen, backoff = self._row(previous)
        drawable = everything.ranks[successors] < len(everything.ids)
        successors, seen = successors[drawable], seen[drawable]
        probability = seen + backoff * everything.probabilities[everything.ranks[successors]]
        order = np.argsort(-probability, kind="stable")
        ids, probability = successors[order], probability[order]
        ranks = everything.ranks[ids]

        largest = max(float(probability[0]) if len(ids) else 0.0, backoff * float(everything.probabilities[0]))
        scale = (backoff * float(everything.probabilities[0]) / largest) ** self._power
        weights, shared = (probability / largest) ** self._power, scale * self._weights[ranks]
        followed, kept = self._cut(probability / backoff, ranks, weights, shared, scale)
        own = weights[:followed] - np.where(ranks[:followed] < kept, shared[:followed], 0)
        cumulative = np.maximum(own, 0).cumsum()
        sum_of_own, sum_of_all = float(cumulative[-1]) if followed else 0.0, scale * self._cumulative[kept]
        return _Prepared(
            ids=ids[:followed],
            probability=probability[:followed],
            cumulative=cumulative,
            own=sum_of_own,
            scale=scale,
            kept=kept if sum_of_all else 0,
            total=sum_of_own + sum_of_all,
            successors=successors,
            seen=seen,
            backoff=backoff,
            allowed=float(seen.sum()) + backoff * everything.total,
        )

    def _cut(self, likeness: Floats, ranks: NDArray[np.int64], weights: Floats, shared: Floats, scale: float) -> tuple[int, int]:
        """How many of the words that followed and how many of all words top-k and top-p leave. `likeness` is which P_continuation a word
        that did not follow would need, to be as probable as each that followed.
        """
        row_end, all_end = len(ranks), len(self._weights)
        if not self._top_k and self._top_p == 1:
            return row_end, all_end
        # In one descending order a word that followed comes after `before` of all words; those of them that followed stand in it already.
        before = all_end - np.searchsorted(self._continuation.ascending, likeness, side="right")
        by_rank = np.argsort(ranks)
        ordered = ranks[by_rank].tolist()
        doubled: list[float] = [0.0, *shared[by_rank].cumsum().tolist()]
        followed_sum: list[float] = [0.0, *weights.cumsum().tolist()]

        def count(followed: int, kept: int) -> float:
            return followed + kept - bisect_left(ordered, kept)

        def mass(followed: int, kept: int) -> float:
            return followed_sum[followed] + scale * self._cumulative[kept] - doubled[bisect_left(ordered, kept)]

        def reach(measure: Callable[[int, int], float], target: float) -> tuple[int, int]:
            followed = bisect_left(range(row_end), target, key=lambda at: measure(at + 1, int(before[at])))
            low, high = int(before[followed - 1]) if followed else 0, int(before[followed]) if followed < row_end else all_end
            kept = low + bisect_left(range(low, high + 1), target, key=lambda kept: measure(followed, kept))
            return (followed, kept) if kept <= high else (min(followed + 1, row_end), high)

        cut = reach(count, self._top_k) if 0 < self._top_k < count(row_end, all_end) else (row_end, all_end)
        if self._top_p < 1:
            cut = min(cut, reach(mass, self._top_p * mass(*cut)))
        return cut
