import asyncio
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import SamplingParams
from models.bigram import Bigram
from models.words import BOUNDARY, UNKNOWN, tokenize

CORPUS = ["the cat sat on the mat.", "the dog sat on the cat.", "a dog ran."]


def text_of(model: Bigram, prompt: str, params: SamplingParams) -> str:
    async def collect() -> str:
        return "".join([token.text async for token in model.stream(prompt, params)])

    return asyncio.run(collect())


@given(st.lists(st.text(alphabet="abc .", min_size=1, max_size=30), min_size=1, max_size=5))
def test_each_row_is_a_distribution_with_the_counts_in_it(texts: list[str]) -> None:
    model = Bigram.fit(texts)
    for previous in range(len(model.vocabulary)):
        row = model.probabilities(previous)
        assert row.sum() == pytest.approx(1, abs=1e-12)
        assert (row >= 0).all()


def test_probability_is_the_textbooks() -> None:
    model = Bigram.fit(CORPUS)
    the, cat = model.vocabulary.encode([" the", " cat"])
    # " the" was followed by cat twice, mat and dog once each; distinct bigrams that end in " cat": only that one.
    distinct = len(model.counts)
    n1, n2 = (model.counts == 1).sum(), (model.counts == 2).sum()
    d = n1 / (n1 + 2 * n2)
    assert model.probabilities(the)[cat] == pytest.approx((2 - d) / 4 + d * 3 / 4 * 1 / distinct)


def test_log_probabilities_of_a_sequence_are_those_of_its_rows() -> None:
    model = Bigram.fit(CORPUS)
    ids = np.array([BOUNDARY, *model.vocabulary.encode(tokenize("the zebra sat. ran dog")), BOUNDARY])
    with np.errstate(divide="ignore"):
        expected = [np.log(model.probabilities(before)[after]) for before, after in itertools.pairwise(ids)]
    np.testing.assert_allclose(model.logprobs(ids), expected)


def test_greedy_follows_the_most_frequent_pair() -> None:
    assert text_of(Bigram.fit(["a b a b a b a c"]), "a", SamplingParams(3, temperature=0)) == " b a b"


@pytest.mark.parametrize("prompt", ["zebra", "mat.", "the", "…", " "], ids=["unseen", "no successor", "seen", "sign", "space"])
def test_any_prompt_is_continued_to_the_length(prompt: str) -> None:
    model = Bigram.fit([*CORPUS, "sat mat."])

    async def tokens() -> list[str | None]:
        return [token.finish_reason async for token in model.stream(prompt, SamplingParams(50))]

    assert asyncio.run(tokens()) == [None] * 49 + ["length"]


def test_a_word_without_successor_backs_off_to_the_continuation_distribution() -> None:
    model = Bigram.fit(CORPUS)
    assert model.starts[UNKNOWN] == model.starts[UNKNOWN + 1]
    np.testing.assert_array_equal(model.probabilities(UNKNOWN), model.continuation)


def test_unknown_words_and_boundaries_are_never_generated() -> None:
    model = Bigram.fit(CORPUS, vocabulary_size=5)  # three words; the rest is unknown
    words = set(tokenize("the" + text_of(model, "the", SamplingParams(300, temperature=2.0, top_p=1.0))))
    assert words <= set(model.vocabulary.words)


def test_a_space_at_the_prompts_end_is_the_next_words() -> None:
    model = Bigram.fit(CORPUS)
    params = SamplingParams(3, temperature=0)
    assert "the " + text_of(model, "the ", params) == "the" + text_of(model, "the", params)
    assert text_of(model, " ", params) == text_of(model, "", params).removeprefix(" ")


def test_same_seed_same_text() -> None:
    model = Bigram.fit(CORPUS)
    one, again, other = (text_of(model, "the", SamplingParams(40, temperature=1.0, seed=seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_model_survives_its_files(tmp_path: Path) -> None:
    model = Bigram.fit(CORPUS)
    model.save(tmp_path)
    loaded = Bigram.load(tmp_path)
    assert text_of(loaded, "the", SamplingParams(30)) == text_of(model, "the", SamplingParams(30))


@pytest.mark.parametrize("corpus", [[], [""]], ids=["no text", "empty text"])
def test_an_empty_corpus_is_refused(corpus: list[str]) -> None:
    with pytest.raises(ValueError, match="corpus is empty"):
        Bigram.fit(corpus)
