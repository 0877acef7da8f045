import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.base import SamplingParams
from models.rnn import LSTM
from models.spelling import Spelling
from models.words import BOUNDARY, UNKNOWN, Vocabulary, tokenize
from training.word_models.lstm import LockedDropout, LSTMConfig, LSTMLanguageModel, cut_windows, fit_lstm

TEXTS = [f"The {color} {animal} sat on the mat." for color in ("red", "blue") for animal in ("cat", "dog", "ox")]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[LSTM, dict[str, Any], Path]:
    directory = tmp_path_factory.mktemp("rnn")
    metrics = fit_lstm(TEXTS * 30, directory, config=LSTMConfig(width=64), epochs=20, seconds=None, seed=0)
    return LSTM.load(directory), metrics, directory


def text_of(model: LSTM, prompt: str, params: SamplingParams) -> str:
    async def collect() -> str:
        return "".join([token.text async for token in model.stream(prompt, params)])

    return asyncio.run(collect())


@pytest.mark.parametrize("size", [50, 2_500, 12_000], ids=["shortlist", "one band", "two bands"])
def test_numpy_computes_what_torch_trained(size: int) -> None:
    torch.manual_seed(0)
    trained = LSTMLanguageModel(size, LSTMConfig(width=32)).eval()
    served = LSTM(Vocabulary([]), Spelling.fit([]), {name: weight.numpy() for name, weight in trained.state_dict().items()})
    ids = np.array([0, 7, 3, size - 1, 12, min(size, 2_400) - 1])
    with torch.no_grad():
        outputs = trained(torch.from_numpy(ids)[None])[0][0]
        expected = np.stack([-trained.words.loss(output.expand(size, -1), torch.arange(size)).numpy() for output in outputs])
    np.testing.assert_allclose(np.exp(expected).sum(axis=1), 1, rtol=1e-4)
    state = served.initial_state()
    for step, id in enumerate(ids):
        output, state = served.step(int(id), state)
        np.testing.assert_allclose(served.next_logprobs(output), expected[step], atol=1e-5)
    np.testing.assert_allclose(served.logprobs(ids), expected[range(5), ids[1:]], atol=1e-5)


def test_the_lstm_learns(fitted: tuple[LSTM, dict[str, Any], Path]) -> None:
    model, metrics, _ = fitted
    ids = model.vocabulary.encode_texts([tokenize(TEXTS[0])])
    assert -model.logprobs(ids).mean() < math.log(3)  # the vocabulary has 13 words; in each text all but two are certain
    assert text_of(model, "The red cat sat on", SamplingParams(3, temperature=0)) == " the mat."
    curve = [epoch["held_out"] for epoch in metrics["curve"]]
    assert metrics["best_epoch"] == 1 + curve.index(min(curve))
    assert metrics["words"] == metrics["curve"][-1]["words"]


def test_the_whole_prompt_counts_not_its_last_word_alone(fitted: tuple[LSTM, dict[str, Any], Path]) -> None:
    model, *_ = fitted
    logprobs = []
    for prompt in ("The red cat sat on the", "mat. the"):
        state = model.initial_state()
        for id in model.vocabulary.encode(tokenize(prompt)):
            output, state = model.step(id, state)
        logprobs.append(model.next_logprobs(output))
    assert not np.allclose(logprobs[0], logprobs[1], atol=1e-3)


@pytest.mark.parametrize("prompt", ["zebra", "mat.", "…", " "], ids=["unseen", "end of text", "punctuation", "space"])
def test_any_prompt_is_continued_to_the_length(fitted: tuple[LSTM, dict[str, Any], Path], prompt: str) -> None:
    model, *_ = fitted

    async def reasons() -> list[str | None]:
        return [token.finish_reason async for token in model.stream(prompt, SamplingParams(20))]

    assert asyncio.run(reasons()) == [None] * 19 + ["length"]


def test_unknown_words_and_boundaries_are_never_generated(fitted: tuple[LSTM, dict[str, Any], Path]) -> None:
    model, *_ = fitted
    words = tokenize("The" + text_of(model, "The", SamplingParams(200, temperature=2.0, top_p=1.0)))
    assert not {BOUNDARY, UNKNOWN} & set(model.vocabulary.encode(words[1:]))


def test_same_seed_same_text_also_among_others(fitted: tuple[LSTM, dict[str, Any], Path]) -> None:
    model, *_ = fitted
    params = [SamplingParams(30, temperature=1.5, seed=seed) for seed in range(8)]
    alone = [text_of(model, "The", each) for each in params]

    async def together() -> list[str]:
        async def one(each: SamplingParams) -> str:
            return "".join([token.text async for token in model.stream("The", each)])

        return await asyncio.gather(*(one(each) for each in params))

    assert asyncio.run(together()) == alone
    assert len(set(alone)) > 1


def test_the_artifact_consists_of_three_files(fitted: tuple[LSTM, dict[str, Any], Path]) -> None:
    assert sorted(path.name for path in fitted[2].iterdir()) == ["lstm.safetensors", "spelling.npz", "vocabulary.json"]


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
    assert text_of(LSTM.load(tmp_path), "a", SamplingParams(3)).split()
