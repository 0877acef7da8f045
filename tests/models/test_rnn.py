import asyncio
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.base import NOTHING_GENERATED, PromptLogprobs, SamplingParams, Token, UnknownIds
from models.rnn import LSTM, RNN
from models.spelling import Spelling
from models.words import BOUNDARY, UNKNOWN, Vocabulary, tokenize
from training.word_models.fitting import fit_lstm
from training.word_models.lstm import LockedDropout, LSTMConfig, LSTMLanguageModel
from training.word_models.lstm_training import cut_windows

TEXTS = [f"The {color} {animal} sat on the mat." for color in ("red", "blue") for animal in ("cat", "dog", "ox")]


@pytest.fixture(scope="module")
def metrics_and_directory(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    directory = tmp_path_factory.mktemp("rnn")
    return fit_lstm(TEXTS * 30, directory, config=LSTMConfig(width=64), epochs=20, seconds=None, seed=0), directory


@pytest.fixture(scope="module")
def fitted(metrics_and_directory: tuple[dict[str, Any], Path]) -> LSTM:
    return LSTM.load(metrics_and_directory[1])


@pytest.fixture(scope="module")
def rnn(metrics_and_directory: tuple[dict[str, Any], Path]) -> Iterator[RNN]:
    with closing(RNN.load(metrics_and_directory[1])) as model:
        yield model


def tokens_of(stream: AsyncGenerator[PromptLogprobs | Token]) -> list[Any]:
    async def collect() -> list[PromptLogprobs | Token]:
        return [item async for item in stream]

    return asyncio.run(collect())


def text_of(model: RNN, prompt: str, params: SamplingParams) -> str:
    return "".join(token.text for token in tokens_of(model.stream(prompt, params)))


@pytest.mark.parametrize("size", [50, 2_500, 12_000], ids=["shortlist", "one band", "two bands"])
def test_numpy_computes_what_torch_trained(size: int) -> None:
    torch.manual_seed(0)
    trained = LSTMLanguageModel(size, LSTMConfig(width=32)).eval()
    reference = LSTM(Vocabulary([]), Spelling.fit([]), {name: weight.numpy() for name, weight in trained.state_dict().items()})
    ids = np.array([0, 7, 3, size - 1, 12, min(size, 2_400) - 1])
    with torch.no_grad():
        outputs = trained(torch.from_numpy(ids)[None])[0][0, :-1]
        expected = -trained.words.loss(outputs, torch.from_numpy(ids[1:])).numpy()
    np.testing.assert_allclose(reference.logprobs(ids), expected, atol=1e-5)


def test_the_lstm_learns(fitted: LSTM, rnn: RNN, metrics_and_directory: tuple[dict[str, Any], Path]) -> None:
    metrics, _ = metrics_and_directory
    ids = fitted.vocabulary.encode_texts([tokenize(TEXTS[0])])
    assert -fitted.logprobs(ids).mean() < math.log(3)  # the vocabulary has 13 words; in each text all but two are certain
    assert text_of(rnn, "The red cat sat on", SamplingParams(3, temperature=0)) == " the mat."
    curve = [epoch["held_out"] for epoch in metrics["curve"]]
    assert metrics["best_epoch"] == 1 + curve.index(min(curve))
    assert metrics["words"] == metrics["curve"][-1]["words"]


def test_prompt_logprobs_are_those_of_the_reference(fitted: LSTM, rnn: RNN) -> None:
    read, *tokens = tokens_of(rnn.stream_with_prompt_logprobs(TEXTS[0], SamplingParams(2, logprobs=3)))
    ids = fitted.vocabulary.encode_texts([tokenize(TEXTS[0])])
    assert [entry.logprob for entry in read.logprobs] == pytest.approx(fitted.logprobs(ids)[:-1], abs=0.1)  # int8 rounds
    assert "".join(entry.text for entry in read.logprobs) == TEXTS[0]
    assert {len(entry.top) for entry in read.logprobs} == {3}
    assert [len(token.logprobs) for token in tokens] == [1, 1]


def test_the_logprob_of_a_generated_word_is_that_of_the_same_word_in_a_prompt(rnn: RNN) -> None:
    for params in (SamplingParams(12, temperature=0, logprobs=1), SamplingParams(12, temperature=1.5, seed=3, logprobs=1)):
        read, *tokens = tokens_of(rnn.stream_with_prompt_logprobs("The", params))
        written = "The" + "".join(token.text for token in tokens)
        (again,) = tokens_of(rnn.stream_with_prompt_logprobs(written, SamplingParams(0, logprobs=1)))[:1]
        assert again.logprobs == (*read.logprobs, *(entry for token in tokens for entry in token.logprobs))


def test_the_whole_prompt_counts_not_its_last_word_alone(rnn: RNN) -> None:
    first, second = (
        tokens_of(rnn.stream(prompt, SamplingParams(1, logprobs=5)))[0].logprobs[0].top for prompt in ("The red cat sat on the", "mat. the")
    )
    assert dict(first) != pytest.approx(dict(second), abs=1e-3)


@pytest.mark.parametrize("prompt", ["zebra", "mat.", "…", " ", "", "a lone \ud83d"])
def test_any_prompt_is_continued_to_the_length(rnn: RNN, prompt: str) -> None:
    tokens = tokens_of(rnn.stream(prompt, SamplingParams(20)))
    assert [token.finish_reason for token in tokens] == [None] * 19 + ["length"]


def test_the_first_word_brings_no_second_space(rnn: RNN) -> None:
    params = SamplingParams(4, temperature=0, logprobs=2)
    plain, spaced = (tokens_of(rnn.stream(prompt, params)) for prompt in ("The red", "The red "))
    assert plain[0].text == f" {spaced[0].text}"
    assert plain[0].logprobs[0].logprob == spaced[0].logprobs[0].logprob
    assert spaced[0].logprobs[0].text == spaced[0].text
    assert plain[1:] == spaced[1:]


def test_unknown_words_and_boundaries_are_never_generated(fitted: LSTM, rnn: RNN) -> None:
    words = tokenize("The" + text_of(rnn, "The", SamplingParams(200, temperature=2.0, top_p=1.0)))
    assert not {BOUNDARY, UNKNOWN} & set(fitted.vocabulary.encode(words[1:]))


def test_a_length_of_zero_generates_nothing_but_reads_the_prompt_if_asked(rnn: RNN) -> None:
    assert tokens_of(rnn.stream("The red", SamplingParams(0))) == [NOTHING_GENERATED]
    read, nothing = tokens_of(rnn.stream_with_prompt_logprobs("The red", SamplingParams(0)))
    assert [entry.text for entry in read.logprobs] == ["The", " red"]
    assert nothing == NOTHING_GENERATED


def test_ids_are_rejected(rnn: RNN) -> None:
    for call in (rnn.count, lambda prompt: rnn.stream(prompt, SamplingParams(1))):
        with pytest.raises(UnknownIds, match="accept text"):
            call([1, 2])


def test_the_artifact_consists_of_three_files(metrics_and_directory: tuple[dict[str, Any], Path]) -> None:
    files = sorted(path.name for path in metrics_and_directory[1].iterdir() if path.is_file())
    assert files == ["lstm.safetensors", "spelling.npz", "vocabulary.json"]


def test_an_empty_corpus_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="corpus is empty"):
        fit_lstm([""], tmp_path, epochs=1, seconds=None, seed=0)


def test_dropout_uses_one_mask_for_all_steps() -> None:
    torch.manual_seed(0)
    dropped = LockedDropout(0.5)(torch.ones(4, 10, 100))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert set(dropped.unique().tolist()) == {0, 2}
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(LockedDropout(0.5).eval()(torch.ones(2, 3, 4)), torch.ones(2, 3, 4))


@given(st.integers(2, 300), st.integers(1, 8), st.integers(1, 20))
def test_windows_are_contiguous_and_targets_are_the_next_words(length: int, streams: int, window: int) -> None:
    windows = cut_windows(torch.arange(length), streams, window)
    inputs, targets = (torch.cat(parts, dim=1) for parts in zip(*windows, strict=True))
    assert torch.equal(inputs + 1, targets)
    assert torch.equal(inputs.flatten(), torch.arange(inputs.numel()))
    assert length - 1 - inputs.numel() < len(inputs)
    assert max(part.shape[1] for part, _ in windows) <= window


def test_a_single_text_is_enough(tmp_path: Path) -> None:
    fit_lstm(["a b a b a b"], tmp_path, epochs=2, seconds=None, seed=0)
    with closing(RNN.load(tmp_path)) as model:
        assert text_of(model, "a", SamplingParams(3)).split()
