"""The beam search with made-up distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.engines import ScoredSpan
from models.engines.spans.beam import MIN_WIDTH, SpanSearch
from models.spans import SpanTrie

VOCABULARY = 7
EOS = frozenset([0, 6])

CANDIDATES = st.sets(st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple), max_size=30)


def trie_of(candidates: set[tuple[int, ...]]) -> SpanTrie:
    depth = max(map(len, candidates), default=0)
    ids, may_end = np.full((len(candidates), depth), -1, np.int32), np.zeros((len(candidates), depth), bool)
    for row, candidate in enumerate(sorted(candidates)):
        ids[row, : len(candidate)], may_end[row, len(candidate) - 1] = candidate, True
    return SpanTrie(ids, may_end)


class Model:
    """A distribution for each text."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def logprobs(self, text: tuple[int, ...]) -> NDArray[np.float32]:
        logits = np.random.default_rng([self._seed, *text]).normal(0, 2, VOCABULARY)
        logprobs: NDArray[np.float32] = (logits - np.logaddexp.reduce(logits)).astype(np.float32)
        return logprobs

    def logprob(self, candidate: tuple[int, ...]) -> float:
        """Return the log-probability of a candidate and the end."""
        tokens = sum(float(self.logprobs(candidate[:place])[id]) for place, id in enumerate(candidate))
        return tokens + float(np.logaddexp.reduce(self.logprobs(candidate)[sorted(EOS)]))

    def search(self, trie: SpanTrie, count: int) -> list[ScoredSpan]:
        """Run a search and check what it asks for."""
        search, tokens = SpanSearch(trie, count, EOS), 0
        texts: list[tuple[int, ...]] = [()]
        while not search.done:
            if tokens:
                texts = [(*texts[parent], token) for parent, token in zip(search.parents, search.tokens, strict=True)]
            assert len(texts) <= max(count, MIN_WIDTH)
            assert {len(text) for text in texts} == {tokens}
            assert all(trie.find(text) for text in texts)
            search.advance(np.stack([self.logprobs(text) for text in texts]))
            tokens += 1
        return search.spans


@given(candidates=CANDIDATES, seed=st.integers(0, 1000), count=st.integers(1, 6))
def test_a_search_finds_different_candidates_and_their_probabilities(candidates: set[tuple[int, ...]], seed: int, count: int) -> None:
    model = Model(seed)
    spans = model.search(trie_of(candidates), count)
    assert len(spans) == len({span.ids for span in spans}) == min(count, len(candidates))
    assert {span.ids for span in spans} <= candidates
    assert [span.logprob for span in spans] == pytest.approx([model.logprob(span.ids) for span in spans])
    assert [span.logprob for span in spans] == sorted((span.logprob for span in spans), reverse=True)


@given(candidates=CANDIDATES, seed=st.integers(0, 1000))
def test_a_search_as_wide_as_there_are_candidates_misses_none(candidates: set[tuple[int, ...]], seed: int) -> None:
    model = Model(seed)
    spans = model.search(trie_of(candidates), max(1, len(candidates)))
    assert [span.ids for span in spans] == sorted(candidates, key=model.logprob, reverse=True)


def test_a_search_ends_when_nothing_can_become_better() -> None:
    search = SpanSearch(trie_of({(1,), (2, 2, 2)}), 1, EOS)
    search.advance(np.log([[0.1, 0.5, 0.1, 0.1, 0.1, 0.1, 1e-9]], dtype=np.float32))
    assert search.tokens == [1, 2]
    assert search.parents == [0, 0]
    search.advance(np.log([[0.9, 0.01, 0.01, 0.01, 0.01, 0.01, 0.05], [0.1, 0.1, 0.8, 1e-9, 1e-9, 1e-9, 1e-9]], dtype=np.float32))
    assert search.done
    assert [span.ids for span in search.spans] == [(1,)]
    assert search.spans[0].logprob == pytest.approx(np.log(0.5 * 0.95))


def test_without_an_end_of_text_token_the_end_is_certain() -> None:
    search = SpanSearch(trie_of({(1,)}), 1, frozenset())
    for _ in range(2):
        search.advance(np.log(np.full((1, VOCABULARY), 0.25, np.float32)))
    assert [span.ids for span in search.spans] == [(1,)]
    assert search.spans[0].logprob == pytest.approx(np.log(0.25))
