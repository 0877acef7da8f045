import asyncio
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.base import SamplingParams
from models.rnn import LSTM
from models.words import BOUNDARY, UNKNOWN, tokenize
from training.lstm import LSTMLanguageModel, fit_lstm, stream_of

TEXTS = [f"The {color} {animal} sat on the mat." for color in ("red", "blue") for animal in ("cat", "dog", "ox")]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[LSTM, dict[str, Any], Path]:
    directory = tmp_path_factory.mktemp("rnn")
    metrics = fit_lstm(TEXTS * 30, TEXTS, directory, epochs=10, seconds=None, seed=0)
    return LSTM.load(directory), metrics, directory


def text_of(model: LSTM, prompt: str, params: SamplingParams) -> str:
    async def collect() -> str:
        return "".join([token.text async for token in model.stream(prompt, params)])

    return asyncio.run(collect())


@pytest.mark.parametrize("size", [50, 2_500], ids=["one tail", "two clusters"])
def test_numpy_computes_what_torch_trained(size: int) -> None:
    torch.manual_seed(0)
    trained = LSTMLanguageModel(size, width=32).eval()
    served = LSTM(None, {name: weight.numpy() for name, weight in trained.state_dict().items()})  # type: ignore[arg-type]
    ids = [0, 7, 3, size - 1, 12]
    with torch.no_grad():
        outputs, _ = trained(torch.tensor([ids]))
        expected = trained.softmax.log_prob(outputs[0]).numpy()
    state = served.initial_state()
    for step, id in enumerate(ids):
        output, state = served.step(id, state)
        np.testing.assert_allclose(served.logprobs(output), expected[step], atol=1e-5)


def test_it_learns(fitted: tuple[LSTM, dict[str, Any], Path]) -> None:
    model, metrics, _ = fitted
    assert metrics["perplexity"] < 3  # 13 words, of which all but two are certain
    assert text_of(model, "The red cat sat on", SamplingParams(3, temperature=0)) == " the mat."


def test_perplexity_is_that_of_the_model_served(fitted: tuple[LSTM, dict[str, Any], Path]) -> None:
    model, metrics, _ = fitted
    ids = stream_of(TEXTS, model.vocabulary).tolist()
    state, total = model.initial_state(), 0.0
    for id, following in itertools.pairwise(ids):
        output, state = model.step(id, state)
        total += model.logprobs(output)[following]
    assert math.exp(-total / (len(ids) - 1)) == pytest.approx(metrics["perplexity"], rel=1e-3)


def test_the_whole_prompt_counts_not_its_last_word_alone(fitted: tuple[LSTM, dict[str, Any], Path]) -> None:
    model, *_ = fitted
    logprobs = []
    for prompt in ("The red cat sat on the", "mat. the"):
        state = model.initial_state()
        for id in model.vocabulary.encode(tokenize(prompt)):
            output, state = model.step(id, state)
        logprobs.append(model.logprobs(output))
    assert not np.allclose(logprobs[0], logprobs[1], atol=1e-3)


@pytest.mark.parametrize("prompt", ["zebra", "mat.", "…", " "], ids=["unseen", "end of text", "sign", "space"])
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


def test_artifact_is_plain_files(fitted: tuple[LSTM, dict[str, Any], Path]) -> None:
    assert sorted(path.name for path in fitted[2].iterdir()) == ["lstm.safetensors", "vocabulary.json"]


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="corpus is empty"):
        fit_lstm([""], ["a"], tmp_path, epochs=1, seconds=None, seed=0)
