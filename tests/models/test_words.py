from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.words import BOUNDARY, UNKNOWN, Vocabulary, count_tokens, detokenize, fit_vocabulary, iterate_tokens, last_token, tokenize


@given(st.text())
def test_joined_tokens_are_the_text(text: str) -> None:
    assert detokenize(tokenize(text)) == text


@given(st.lists(st.sampled_from(["The", "cat's", "—", "(", ")", "…", "  ", "\n", "naïve", "3.14", "e\u0301"]), max_size=20))
def test_joined_tokens_are_the_text_of_prose(parts: list[str]) -> None:
    text = " ".join(parts)
    assert detokenize(tokenize(text)) == text


def test_a_word_is_the_same_token_at_any_position() -> None:
    assert tokenize("Cats saw the cat's hat, twice.") == [" Cats", " saw", " the", " cat's", " hat", ",", " twice", "."]
    assert tokenize("the cat")[0] == tokenize("see the cat")[1]


def test_a_vocabulary_keeps_the_most_frequent_words_and_maps_the_rest_to_unknown() -> None:
    vocabulary, _ = fit_vocabulary(["a b a c a b"], size=4)
    assert vocabulary.words == [" a", " b"]
    assert vocabulary.encode([" a", " b", " c"]) == [2, 3, UNKNOWN]
    assert vocabulary.word(3) == " b"
    assert len(vocabulary) == 4
    assert BOUNDARY not in vocabulary.encode(tokenize("a b c"))


def test_saving_and_loading_preserves_the_vocabulary(tmp_path: Path) -> None:
    vocabulary, _ = fit_vocabulary(["naïve “café”\n…"], size=10)
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json").words == vocabulary.words


def test_an_empty_corpus_is_rejected() -> None:
    with pytest.raises(ValueError, match="corpus is empty"):
        fit_vocabulary([""], size=10)


@given(st.text(alphabet="aé’'_1. ,\n\t¶") | st.text())
def test_the_tokens_of_a_long_text_can_be_read_one_by_one_or_from_its_end(text: str) -> None:
    assert list(iterate_tokens(text)) == tokenize(text)
    assert count_tokens(text) == len(tokenize(text))
    assert last_token(text) == tokenize(text)[-1:]
