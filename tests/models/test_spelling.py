import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.spelling import Spelling

WORDS = [" Zanzibar", " zebra", " zebras", " naïveté", "…"]


def test_every_word_has_a_cost(tmp_path: Path) -> None:
    @given(st.lists(st.text(min_size=1), max_size=5))
    def check(words: list[str]) -> None:
        bits = Spelling.fit(WORDS).bits(words)
        assert bits.shape == (len(words),)
        assert np.isfinite(bits).all()
        assert (bits > 0).all()

    check()


def test_the_next_bytes_are_a_distribution() -> None:
    # P(end) + sum over bytes b of P(b) = 1, after any beginning: of two-byte words all that begin alike, with all that may follow.
    spelling = Spelling.fit(["aa", "ab", "b", "abba"])
    letters = [chr(code) for code in range(128)]
    exactly = {word: 2 ** -spelling.bits([word])[0] for word in ["", *letters, *map("".join, itertools.product("ab", letters))]}
    # From the chain rule: P(word ends after w) <= 1, and the probability of all words up to two signs long is below 1.
    assert sum(exactly.values()) < 1
    trained = sum(2 ** -spelling.bits([word])[0] for word in ["aa", "ab", "b", "abba"])
    assert 0.4 < trained < 1


def test_probability_is_witten_bells() -> None:
    spelling = Spelling.fit(["a", "b"])
    # After the start: a and b once each, two types, backing off through four orders that have the same counts to the symbol alone, where
    # a and b have one count each and the end two, of three types, before the uniform distribution.
    alone = {"a": (1 + 3 / 257) / (4 + 3), "end": (2 + 3 / 257) / (4 + 3)}
    first = alone["a"]
    for _ in range(5):
        first = (1 + 2 * first) / (2 + 2)
    end = alone["end"]
    for _ in range(5):
        end = (1 + 1 * end) / (1 + 1)
    assert spelling.bits(["a"])[0] == pytest.approx(-math.log2(first * end))


def test_what_looks_like_the_training_words_is_cheaper() -> None:
    spelling = Spelling.fit(WORDS)
    zebu, noise = spelling.bits([" zebu", "\x07\x08\x09\x0a"])
    assert zebu < noise


def test_without_training_words_each_byte_costs_the_same() -> None:
    assert Spelling.fit([]).bits(["ab", ""]) == pytest.approx([3 * math.log2(257), math.log2(257)])


def test_it_survives_its_file(tmp_path: Path) -> None:
    Spelling.fit(WORDS).save(tmp_path / "spelling.npz")
    loaded = Spelling.load(tmp_path / "spelling.npz")
    np.testing.assert_array_equal(loaded.bits([" zebu", "\ud800"]), Spelling.fit(WORDS).bits([" zebu", "\ud800"]))
