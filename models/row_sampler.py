"""Sample the next word of a bigram model in microseconds, with temperature, top-k and top-p.

A row of the model is P(w) = seen(w) + backoff · P_continuation(w), where `seen` is above zero only for the row's successors, the words
that followed in training. At temperature T a word has the weight P(w)^(1/T). The sampler splits it in two:

- a shared weight, (backoff · P_continuation(w))^(1/T), whose cumulative sums over all words are the same for every row up to a factor,
- the rest, which only successors have.

A draw is one binary search, either in the row's successors or in all words. Top-k and top-p keep the most probable words: the first
successors in order of falling P(w), and the first of all words in order of falling P_continuation. No draw looks at the whole vocabulary.

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
"""`Bigram.row`: the successors of a word, what each has beyond the backoff, and the weight of the backoff."""


class RankedWords:
    """All words that can be drawn, in order of falling P_continuation; ties are ordered by id."""

    def __init__(self, continuation: Floats, never: list[int]) -> None:
        allowed = continuation.copy()
        allowed[never] = 0
        order = np.argsort(-allowed, kind="stable")[: int((allowed > 0).sum())]
        self.ids: list[int] = order.tolist()
        self.probabilities: Floats = allowed[order]
        self.ascending: Floats = self.probabilities[::-1].copy()
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
    """The last of `cumulative`."""
    shared_scale: float
    """The factor between the sampler's shared weights and this row's."""
    shared_count: int
    """The number of ranked words that are kept."""
    total_weight: float


class RowSampler:
    """Draws with one combination of temperature, top-k and top-p.

    A row is prepared when it is needed for the first time and kept; all rows together take about thirty bytes for each bigram.
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
        words = self._words
        successors, seen, backoff = self._read_row(previous)
        drawable = words.rank_of[successors] < len(words.ids)
        successors, seen = successors[drawable], seen[drawable]
        probabilities = seen + backoff * words.probabilities[words.rank_of[successors]]
        order = np.argsort(-probabilities, kind="stable")
        successors, probabilities = successors[order], probabilities[order]
        ranks = words.rank_of[successors]

        largest_shared = backoff * float(words.probabilities[0])
        largest = max(float(probabilities[0]) if len(successors) else 0.0, largest_shared)
        scale = (largest_shared / largest) ** self._power
        weights, shared = (probabilities / largest) ** self._power, scale * self._shared[ranks]

        kept, shared_count = self._cut(probabilities / backoff, ranks, weights, shared, scale)
        beyond_shared = weights[:kept] - np.where(ranks[:kept] < shared_count, shared[:kept], 0)
        cumulative = np.maximum(beyond_shared, 0).cumsum()
        successor_weight = float(cumulative[-1]) if kept else 0.0
        shared_weight = scale * self._shared_cumulative[shared_count]
        return _PreparedRow(
            successors=successors[:kept],
            cumulative=cumulative,
            successor_weight=successor_weight,
            shared_scale=scale,
            shared_count=shared_count if shared_weight else 0,
            total_weight=successor_weight + shared_weight,
        )

    def _cut(self, equivalent: Floats, ranks: NDArray[np.int64], weights: Floats, shared: Floats, scale: float) -> tuple[int, int]:
        """Return how many successors and how many ranked words top-k and top-p keep.

        `equivalent` is the P_continuation that would make a word as probable as each successor without having followed.
        """
        everything = len(ranks), len(self._shared)
        if not self._top_k and self._top_p == 1:
            return everything
        by_rank = np.argsort(ranks)
        cuts = _Cuts(
            more_probable=len(self._shared) - np.searchsorted(self._words.ascending, equivalent, side="right"),
            vocabulary=len(self._shared),
            successor_weights=[0.0, *weights.cumsum().tolist()],
            shared_weights=self._shared_cumulative,
            shared_scale=scale,
            duplicate_ranks=ranks[by_rank].tolist(),
            duplicate_weights=[0.0, *shared[by_rank].cumsum().tolist()],
        )
        cut = everything
        if 0 < self._top_k < cuts.count(*cut):
            cut = cuts.first(cuts.count, self._top_k)
        if self._top_p < 1:
            cut = min(cut, cuts.first(cuts.weight, self._top_p * cuts.weight(*cut)))
        return cut


@dataclass(frozen=True, slots=True)
class _Cuts:
    """The prefixes of a row's words in order of falling probability.

    A cut keeps the first successors and the first ranked words. A successor is a ranked word too; there it is a duplicate, which does
    not count, because a successor always comes before its duplicate.
    """

    more_probable: NDArray[np.int64]
    """How many ranked words come before each successor."""
    vocabulary: int
    successor_weights: list[float]
    """Cumulative weights of the successors, beginning with 0."""
    shared_weights: list[float]
    """Cumulative weights of the ranked words, beginning with 0, to be multiplied by `shared_scale`."""
    shared_scale: float
    duplicate_ranks: list[int]
    """The ranks of the successors in ascending order."""
    duplicate_weights: list[float]
    """Their cumulative shared weights, beginning with 0."""

    def count(self, successors: int, ranked: int) -> float:
        """Return the number of words in a cut."""
        return successors + ranked - bisect_left(self.duplicate_ranks, ranked)

    def weight(self, successors: int, ranked: int) -> float:
        """Return the weight of the words in a cut."""
        duplicates = self.duplicate_weights[bisect_left(self.duplicate_ranks, ranked)]
        return self.successor_weights[successors] + self.shared_scale * self.shared_weights[ranked] - duplicates

    def first(self, measure: Callable[[int, int], float], target: float) -> tuple[int, int]:
        """Return the smallest cut whose `measure` (`count` or `weight`) reaches `target`."""
        total = len(self.more_probable)
        successors = bisect_left(range(total), target, key=lambda n: measure(n + 1, int(self.more_probable[n])))
        low = int(self.more_probable[successors - 1]) if successors else 0
        high = int(self.more_probable[successors]) if successors < total else self.vocabulary
        ranked = low + bisect_left(range(low, high + 1), target, key=lambda n: measure(successors, n))
        return (successors, ranked) if ranked <= high else (min(successors + 1, total), high)
