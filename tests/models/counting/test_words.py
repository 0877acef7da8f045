import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from models.counting.words import WordCounts

TEXTS = st.lists(st.lists(st.text("abé", max_size=2) | st.text(st.characters(), max_size=3), max_size=10), max_size=10)


@given(TEXTS, st.integers(1, 10), st.integers(0, 20))
def test_the_table_holds_each_word_once_with_its_count(texts: list[list[str]], at_once: int, limit: int) -> None:
    expected = Counter(itertools.chain(*texts))
    with WordCounts(texts, at_once) as counts:
        assert list(counts) == sorted(expected)
        assert len(counts) == len(expected)
        assert counts.most_frequent(limit) == sorted(expected.items(), key=lambda item: (-item[1], item[0]))[:limit]
