"""Sample the next word of a bigram model in microseconds, with temperature, top-k and top-p.

A row of the model is P(w) = seen(w) + backoff · P_continuation(w), where `seen` is above zero only for the row's successors, the words
that followed in training. At temperature T a word has the weight P(w)^(1/T). The sampler splits this weight in two:

- a shared weight, (backoff · P_continuation(w))^(1/T), whose cumulative sums over all words are the same for every row up to a factor,
- the rest, which only successors have.

A draw is one binary search, either in the row's successors or in all words. Top-k and top-p keep the most probable words: the first
successors in descending order of P(w), and the first of all words in descending order of P_continuation. No draw scans the vocabulary.

A library's alias table for each row (such as `scipy.stats.sampling.DiscreteAliasUrn`) would need an entry for every word of the
vocabulary: 30,000 rows of 30,000 entries, for each combination of parameters, do not fit into memory.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RowReader = Callable[[int], tuple[NDArray[np.int32], Floats, float]]
"""`Bigram.row`: the successors of a word, seen(w) for each of them, and the backoff."""


class RankedWords:
    """All words that can be drawn, in descending order of P_continuation; ties are ordered by id."""

    def __init__(self, continuation: Floats, never: list[int]) -> None:
        allowed = continuation.copy()
        allowed[never] = 0
        order = np.argsort(-allowed, kind="stable")[: int((allowed > 0).sum())]
        self.ids: list[int] = order.tolist()
        self.probabilities: Floats = allowed[order]
        self.ascending: Floats = self.probabilities[::-1].copy()
        """`probabilities` in ascending order, for binary search."""
        self.rank_of = np.full(len(continuation), len(order), dtype=np.int64)
        """The rank of each word, shape (V,). Words that are never drawn rank behind all others."""
        self.rank_of[order] = np.arange(len(order))


@dataclass(frozen=True, slots=True)
class _PreparedRow:
    """The two parts of a row, after top-k and top-p."""

    successors: NDArray[np.int32]
    """The successors that are kept, the most probable first."""
    cumulative: Floats
    """Cumulative weights of the successors beyond their shared weight."""
    successor_weight: float
    """The last entry of `cumulative`; 0 if no successor is kept."""
    shared_scale: float
    """Multiplies the sampler's shared weights to give this row's."""
    shared_count: int
    """The number of ranked words that are kept."""
    total_weight: float


@dataclass(frozen=True, slots=True)
class _Successors:
    """The drawable successors of a row in descending order of probability; each array has one entry for each of them."""

    ids: NDArray[np.int32]
    ranks: NDArray[np.int64]
    """Their ranks in `RankedWords`."""
    more_probable: NDArray[np.int64]
    """How many ranked words are more probable."""
    weights: Floats
    shared_weights: Floats
    """The shared part of `weights`."""


class RowSampler:
    """Draws words with one combination of temperature, top-k and top-p.

    A row is prepared when it is first needed, and kept; all rows together take about thirty bytes for each bigram.
    """

    def __init__(self, read_row: RowReader, words: RankedWords, temperature: float, top_k: int, top_p: float) -> None:
        self._read_row, self._words = read_row, words
        self._power, self._top_k, self._top_p = 1 / temperature, top_k, top_p
        # Relative to the most probable word: at a low temperature, powers of the probabilities themselves would all underflow to 0.
        self._shared = (words.probabilities / words.probabilities[0]) ** self._power
        self._shared_cumulative: list[float] = [0.0, *self._shared.cumsum().tolist()]
        self._rows: dict[int, _PreparedRow] = {}

    def draw(self, previous: int, uniform: float) -> int:
        """Return the word after `previous` for a number drawn uniformly from [0, 1)."""
        row = self._rows.get(previous)
        if row is None:
            row = self._rows[previous] = self._prepare(previous)
        target = uniform * row.total_weight
        if target < row.successor_weight or not row.shared_count:
            place = int(row.cumulative.searchsorted(target, "right"))
            return int(row.successors[min(place, len(row.successors) - 1)])
        target = (target - row.successor_weight) / row.shared_scale
        place = bisect_right(self._shared_cumulative, target, 0, row.shared_count + 1) - 1
        return self._words.ids[min(place, row.shared_count - 1)]

    def _prepare(self, previous: int) -> _PreparedRow:
        successors, scale = self._read_successors(previous)
        kept, shared_count = self._cut(successors, scale)
        is_duplicate = successors.ranks[:kept] < shared_count
        beyond_shared = successors.weights[:kept] - np.where(is_duplicate, successors.shared_weights[:kept], 0)
        cumulative = np.maximum(beyond_shared, 0).cumsum()
        successor_weight = float(cumulative[-1]) if kept else 0.0
        shared_weight = scale * self._shared_cumulative[shared_count]
        return _PreparedRow(
            successors=successors.ids[:kept],
            cumulative=cumulative,
            successor_weight=successor_weight,
            shared_scale=scale,
            shared_count=shared_count if shared_weight else 0,
            total_weight=successor_weight + shared_weight,
        )

    def _read_successors(self, previous: int) -> tuple[_Successors, float]:
        """Return the drawable successors of a row, and the factor that turns the sampler's shared weights into the row's."""
        words = self._words
        ids, seen, backoff = self._read_row(previous)
        drawable = words.rank_of[ids] < len(words.ids)
        ids, seen = ids[drawable], seen[drawable]
        probabilities = seen + backoff * words.probabilities[words.rank_of[ids]]
        order = np.argsort(-probabilities, kind="stable")
        ids, probabilities = ids[order], probabilities[order]
        ranks = words.rank_of[ids]

        # As in `__init__`, weights are relative to the most probable word.
        largest_shared = backoff * float(words.probabilities[0])
        largest = max(float(probabilities[0]) if len(ids) else 0.0, largest_shared)
        scale = (largest_shared / largest) ** self._power
        weights = (probabilities / largest) ** self._power
        # A word that is not a successor is as probable as a successor if its P_continuation is probabilities / backoff.
        more_probable = len(words.ids) - np.searchsorted(words.ascending, probabilities / backoff, side="right")
        return _Successors(ids, ranks, more_probable, weights, scale * self._shared[ranks]), scale

    def _cut(self, successors: _Successors, scale: float) -> tuple[int, int]:
        """Return how many successors and how many ranked words top-k and top-p keep."""
        cut = len(successors.ids), len(self._shared)
        if not self._top_k and self._top_p == 1:
            return cut
        cuts = _Cuts(successors, self._shared_cumulative, scale)
        if 0 < self._top_k < cuts.count(*cut):
            cut = cuts.first(cuts.count, self._top_k)
        if self._top_p < 1:
            cut = min(cut, cuts.first(cuts.weight, self._top_p * cuts.weight(*cut)))
        return cut


class _Cuts:
    """The prefixes of a row's words in descending order of probability.

    A cut keeps the first successors and the first ranked words. Each successor is also among the ranked words; that duplicate is not
    counted, because the successor itself always comes first.
    """

    def __init__(self, successors: _Successors, shared_cumulative: list[float], scale: float) -> None:
        self._more_probable: list[int] = successors.more_probable.tolist()
        self._weights: list[float] = [0.0, *successors.weights.cumsum().tolist()]
        self._shared_cumulative, self._scale = shared_cumulative, scale
        by_rank = np.argsort(successors.ranks)
        self._duplicate_ranks: list[int] = successors.ranks[by_rank].tolist()
        self._duplicate_weights: list[float] = [0.0, *successors.shared_weights[by_rank].cumsum().tolist()]

    def count(self, successors: int, ranked: int) -> float:
        """Return the number of words in a cut."""
        return successors + ranked - bisect_left(self._duplicate_ranks, ranked)

    def weight(self, successors: int, ranked: int) -> float:
        """Return the weight of the words in a cut."""
        duplicates = self._duplicate_weights[bisect_left(self._duplicate_ranks, ranked)]
        return self._weights[successors] + self._scale * self._shared_cumulative[ranked] - duplicates

    def first(self, measure: Callable[[int, int], float], target: float) -> tuple[int, int]:
        """Return the smallest cut whose `measure` (`count` or `weight`) reaches `target`."""
        total = len(self._more_probable)
        # This many successors, with the ranked words before them, stay below `target`: the cut lies between the last of them and the next.
        successors = bisect_left(range(total), target, key=lambda n: measure(n + 1, self._more_probable[n]))
        low = self._more_probable[successors - 1] if successors else 0
        high = self._more_probable[successors] if successors < total else len(self._shared_cumulative) - 1
        ranked = low + bisect_left(range(low, high + 1), target, key=lambda n: measure(successors, n))
        # If even all ranked words in between are too few, the next successor reaches `target`.
        return (successors, ranked) if ranked <= high else (min(successors + 1, total), high)
