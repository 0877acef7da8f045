import asyncio
import itertools
from collections import Counter
from pathlib import Path

import nltk
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nltk.lm import KneserNeyInterpolated

from models.base import SamplingParams
from models.bigram import WORDS_PER_TURN, Bigram
from models.words import BOUNDARY, UNKNOWN, tokenize
from tests.conftest import QUICKSTART
from training.data.squad import load_splits

CORPUS = ["the cat sat on the mat.", "the dog sat on the cat.", "a dog ran on a mat. a cat ran."]
PARAMETERS = st.tuples(st.sampled_from([0.1, 0.5, 0.8, 1.0, 2.0]), st.integers(0, 8), st.sampled_from([0.3, 0.7, 0.95, 1.0]))
"""Temperature, top_k and top_p."""


def text_of(model: Bigram, prompt: str, params: SamplingParams) -> str:
    async def collect() -> str:
        return "".join([token.text async for token in model.stream(prompt, params)])

    return asyncio.run(collect())


@given(st.lists(st.text(alphabet="abc .", min_size=1, max_size=30), min_size=1, max_size=5))
def test_each_row_is_a_probability_distribution(texts: list[str]) -> None:
    model = Bigram.fit(texts)
    for previous in range(len(model.vocabulary)):
        row = model.probabilities(previous)
        assert row.sum() == pytest.approx(1, abs=1e-12)
        assert (row >= 0).all()


@given(st.lists(st.text(alphabet="abcde .", min_size=5, max_size=60), min_size=1, max_size=5))
def test_probabilities_equal_those_of_nltk(texts: list[str]) -> None:
    assume(texts_have_words(texts))
    model = Bigram.fit(texts)
    ids = model.vocabulary.encode_texts([tokenize(text) for text in texts]).tolist()
    assume(UNKNOWN in ids)  # otherwise nltk gives the unknown word probability 0, and this model one count
    oracle = KneserNeyInterpolated(2, discount=model.discount)
    names = [str(id) for id in ids]
    oracle.fit([[*nltk.ngrams(names, 1), *nltk.ngrams(names, 2)]], vocabulary_text=names)
    for previous, word in itertools.product(sorted(set(ids)), repeat=2):
        assert model.probabilities(previous)[word] == pytest.approx(oracle.score(str(word), [str(previous)]), abs=1e-9)


def texts_have_words(texts: list[str]) -> bool:
    return any(tokenize(text) for text in texts)


@given(st.lists(st.text(alphabet="abcde .", max_size=60), min_size=1, max_size=5), st.integers(2, 12), st.integers(1, 30))
def test_bigrams_counted_in_parts_are_those_counted_at_once(texts: list[str], size: int, at_once: int) -> None:
    assume(texts_have_words(texts))
    model = Bigram.fit(texts, size, at_once)
    ids = model.vocabulary.encode_texts([tokenize(text) for text in texts]).tolist()
    rows = np.repeat(np.arange(len(model.vocabulary)), np.diff(model.starts)).tolist()
    found = zip(rows, model.successors.tolist(), model.counts.tolist(), strict=True)
    assert [((v, w), count) for v, w, count in found] == sorted(Counter(itertools.pairwise(ids)).items())
    assert model.totals.tolist() == [ids[:-1].count(id) for id in range(len(model.vocabulary))]


def test_held_out_text_is_predicted_better_than_by_simpler_models() -> None:
    texts = list(dict.fromkeys(load_splits(str(QUICKSTART)).train["context"]))
    train, held_out = texts[:100], texts[100:]
    model = Bigram.fit(train)
    ids, seen = (model.vocabulary.encode_texts([tokenize(text) for text in part]) for part in (held_out, train))
    size = len(model.vocabulary)
    unigram = np.bincount(seen, minlength=size)
    pairs = Counter(itertools.pairwise(seen.tolist()))

    def add_k_loss(k: float) -> float:
        ratios = [(pairs[v, w] + k) / (unigram[v] + k * size) for v, w in itertools.pairwise(ids.tolist())]
        return float(-np.log(ratios).mean())

    ours = -model.logprobs(ids).mean()
    assert ours < min(add_k_loss(k) for k in (1, 0.1, 0.01, 0.001))
    assert ours < -np.log(unigram[ids[1:]] / unigram.sum()).mean()


def expected_draw(model: Bigram, previous: int, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Return the sampling distribution by its definition, over the whole sorted vocabulary."""
    weights = model.probabilities(previous)
    weights[[BOUNDARY, UNKNOWN]] = 0
    weights = (weights / weights.max()) ** (1 / temperature)
    order = np.argsort(-weights, kind="stable")
    kept = order[: top_k or None]
    mass = weights[kept].cumsum()
    kept = kept[: int(np.searchsorted(mass, top_p * mass[-1] * (1 - 1e-12))) + 1] if top_p < 1 else kept
    result = np.zeros_like(weights)
    result[kept] = weights[kept]
    normalised: np.ndarray = result / result.sum()
    return normalised


@given(st.lists(st.text(alphabet="abcdefgh ", min_size=1, max_size=60), min_size=1, max_size=5), PARAMETERS, st.data())
def test_draws_follow_the_distribution_after_temperature_top_k_and_top_p(
    texts: list[str], setting: tuple[float, int, float], data: st.DataObject
) -> None:
    assume(texts_have_words(texts))
    model = Bigram.fit(texts)
    previous = data.draw(st.integers(0, len(model.vocabulary) - 1))
    expected = expected_draw(model, previous, *setting)
    sampler = model._sampler(SamplingParams(1, setting[0], setting[1], setting[2]))
    points = 2000
    drawn = [sampler.draw(previous, (point + 0.5) / points) for point in range(points)]
    found = np.bincount(drawn, minlength=len(model.vocabulary)) / points
    # Among equally probable words, any may be the last one kept: compare the probabilities, not the words.
    tolerance = 2 * len(model.vocabulary) / points
    np.testing.assert_allclose(np.sort(found), np.sort(expected), atol=tolerance)
    assert found[[BOUNDARY, UNKNOWN]].sum() == 0
    probabilities = model.probabilities(previous)
    probabilities[[BOUNDARY, UNKNOWN]] = 0
    logprobs = [model.drawable_logprob(previous, id) for id in set(drawn)]
    np.testing.assert_allclose(np.exp(logprobs), probabilities[list(set(drawn))] / probabilities.sum())


def test_the_unknown_word_has_a_probability_even_if_training_has_none() -> None:
    model = Bigram.fit(["a b a b"])
    assert np.isfinite(model.logprobs(np.array([BOUNDARY, UNKNOWN, 2]))).all()


def test_a_probability_equals_the_textbook_formula() -> None:
    model = Bigram.fit(CORPUS)
    the, cat = model.vocabulary.encode([" the", " cat"])
    # " the" was followed by cat twice, mat and dog once each; two distinct bigrams end in " cat", one more
    # is reserved for words never seen.
    distinct = len(model.counts)
    n1, n2 = (model.counts == 1).sum(), (model.counts == 2).sum()
    d = n1 / (n1 + 2 * n2)
    assert model.probabilities(the)[cat] == pytest.approx((2 - d) / 4 + d * 3 / 4 * 2 / (distinct + 1))


def test_logprobs_of_a_text_equal_those_of_its_rows() -> None:
    model = Bigram.fit(CORPUS)
    ids = np.array([BOUNDARY, *model.vocabulary.encode(tokenize("the zebra sat. ran dog")), BOUNDARY])
    with np.errstate(divide="ignore"):
        expected = [np.log(model.probabilities(before)[after]) for before, after in itertools.pairwise(ids)]
    np.testing.assert_allclose(model.logprobs(ids), expected)


@given(st.lists(st.text(alphabet="abcde .", min_size=5, max_size=60), min_size=1, max_size=5), st.integers(0, 5), st.integers(2, 30))
def test_the_entry_of_a_word_is_that_of_the_whole_distribution(texts: list[str], top: int, size: int) -> None:
    assume(texts_have_words(texts))
    model = Bigram.fit(texts, vocabulary_size=size)
    for previous, word in itertools.product(range(len(model.vocabulary)), [*model.vocabulary.words, " unseen"]):
        found = model._logprob(previous, word, top)
        with np.errstate(divide="ignore"):
            expected = model.vocabulary.logprob(word, np.log(model.probabilities(previous)), model.spelling, top)
        assert (found.text, found.characters) == (expected.text, expected.characters)
        assert found.logprob == pytest.approx(expected.logprob)
        # Among equally probable words, any may be named.
        assert [value for _, value in found.top] == pytest.approx([value for _, value in expected.top])


def test_a_whole_text_is_that_of_the_stream() -> None:
    model = Bigram.fit(CORPUS)
    for length, prompt in itertools.product((0, 1, 70), ("the", "the ", "")):
        single, whole, flushed = (
            text_of(model, prompt, SamplingParams(length, final_only=final_only, flush_interval=interval))
            for final_only, interval in ((False, 0.0), (True, 0.0), (False, 0.05))
        )
        assert single == whole == flushed


def test_greedy_follows_the_most_frequent_pair() -> None:
    assert text_of(Bigram.fit(["a b a b a b a c"]), "a", SamplingParams(3, temperature=0)) == " b a b"


@pytest.mark.parametrize("prompt", ["zebra", "mat.", "the", "…", " "], ids=["unseen", "no successor", "seen", "punctuation", "space"])
def test_any_prompt_is_continued_to_the_requested_length(prompt: str) -> None:
    model = Bigram.fit([*CORPUS, "sat mat."])

    async def tokens() -> list[str | None]:
        return [token.finish_reason async for token in model.stream(prompt, SamplingParams(50))]

    assert asyncio.run(tokens()) == [None] * 49 + ["length"]


def test_a_word_without_successors_backs_off_to_the_continuation_distribution() -> None:
    model = Bigram.fit(CORPUS)
    assert model.starts[UNKNOWN] == model.starts[UNKNOWN + 1]
    np.testing.assert_array_equal(model.probabilities(UNKNOWN), model.continuation)


def test_unknown_words_and_boundaries_are_never_generated() -> None:
    model = Bigram.fit(CORPUS, vocabulary_size=5)  # three words; the others are unknown
    words = set(tokenize("the" + text_of(model, "the", SamplingParams(300, temperature=2.0, top_p=1.0))))
    assert words <= set(model.vocabulary.words)


def test_a_space_at_the_end_of_the_prompt_replaces_that_of_the_next_word() -> None:
    model = Bigram.fit(CORPUS)
    params = SamplingParams(3, temperature=0)
    assert "the " + text_of(model, "the ", params) == "the" + text_of(model, "the", params)
    assert text_of(model, " ", params) == text_of(model, "", params).removeprefix(" ")


def test_same_seed_same_text() -> None:
    model = Bigram.fit(CORPUS)
    one, again, other = (text_of(model, "the", SamplingParams(40, temperature=1.0, seed=seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_saving_and_loading_preserves_the_model(tmp_path: Path) -> None:
    model = Bigram.fit(CORPUS)
    model.save(tmp_path)
    loaded = Bigram.load(tmp_path)
    assert text_of(loaded, "the", SamplingParams(30)) == text_of(model, "the", SamplingParams(30))


@pytest.mark.parametrize("corpus", [[], [""]], ids=["no text", "empty text"])
def test_an_empty_corpus_is_rejected(corpus: list[str]) -> None:
    with pytest.raises(ValueError, match="corpus is empty"):
        Bigram.fit(corpus)


@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_short_text_overtakes_many_long_ones_and_each_iteration_of_the_loop_is_short(logprobs: int | None) -> None:
    model = Bigram.fit(CORPUS)
    iteration, words = 0, Counter[int]()
    finished: list[int] = []

    async def generate(length: int) -> None:
        async for token in model.stream("the", SamplingParams(length, logprobs=logprobs)):
            words[iteration] += token.count
        finished.append(length)

    async def main() -> None:
        nonlocal iteration
        texts = [asyncio.ensure_future(generate(100)) for _ in range(64)]
        late: asyncio.Task[None] | None = None
        while not all(text.done() for text in texts):
            await asyncio.sleep(0)
            iteration += 1
            if iteration == 5:
                late = asyncio.ensure_future(generate(5))
        assert late
        await late

    asyncio.run(main())
    assert finished.index(5) < 32
    assert max(words.values()) <= WORDS_PER_TURN
