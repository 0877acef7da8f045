import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.spelling import END, ORDER, START, Spelling

WORDS = [" Zanzibar", " zebra", " zebras", " naïveté", "…"]


def by_definition(trained: list[str], word: str) -> float:
    """Witten-Bell by its formula, with counts in dictionaries. Also checks that each distribution sums to one."""
    counts: dict[tuple[int, ...], Counter[int]] = {}
    for text in trained:
        symbols = [*[START] * (ORDER - 1), *text.encode(), END]
        for at in range(ORDER - 1, len(symbols)):
            for length in range(ORDER):
                counts.setdefault(tuple(symbols[at - length : at]), Counter())[symbols[at]] += 1

    def distribution(history: tuple[int, ...]) -> list[float]:
        result = [1 / 257] * 257
        for length in range(ORDER):
            if followed := counts.get(history[len(history) - length :]):
                total, types = followed.total(), len(followed)
                result = [(followed[symbol] + types * lower) / (total + types) for symbol, lower in enumerate(result)]
        assert sum(result) == pytest.approx(1)
        return result

    symbols = [*[START] * (ORDER - 1), *word.encode(), END]
    return -sum(math.log2(distribution(tuple(symbols[at - ORDER + 1 : at]))[symbols[at]]) for at in range(ORDER - 1, len(symbols)))


@given(st.lists(st.text("abé", max_size=8), max_size=6), st.text("abcé", max_size=8))
def test_the_cost_follows_the_witten_bell_formula(trained: list[str], word: str) -> None:
    assert Spelling.fit(trained).bits([word, "b"])[0] == pytest.approx(by_definition(trained, word))


@given(st.lists(st.text(min_size=1), max_size=5))
def test_every_word_has_a_cost(words: list[str]) -> None:
    bits = Spelling.fit(WORDS).bits(words)
    assert bits.shape == (len(words),)
    assert np.isfinite(bits).all()
    assert (bits > 0).all()


def test_words_like_the_training_words_are_cheaper() -> None:
    spelling = Spelling.fit(WORDS)
    zebu, noise = spelling.bits([" zebu", "\x07\x08\x09\x0a"])
    assert zebu < noise


def test_without_training_words_each_byte_costs_the_same() -> None:
    assert Spelling.fit([]).bits(["ab", ""]) == pytest.approx([3 * math.log2(257), math.log2(257)])


def test_saving_and_loading_preserves_the_costs(tmp_path: Path) -> None:
    Spelling.fit(WORDS).save(tmp_path / "spelling.npz")
    loaded = Spelling.load(tmp_path / "spelling.npz")
    np.testing.assert_array_equal(loaded.bits([" zebu", "\ud800"]), Spelling.fit(WORDS).bits([" zebu", "\ud800"]))
