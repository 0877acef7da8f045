"""What both engines tell of given tokens, against the logits of the model itself."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.base import PromptTooLong, SamplingParams, Token, UnknownIds
from models.engines import MAX_LOGPROBS, Engine, EngineStopped, IdScore
from models.llm import LLM
from tests.models.engines.conftest import PROMPTS, build, collect


async def read(engine: Engine, *pieces: list[int]) -> list[IdScore]:
    scorer = engine.scorer()
    try:
        return [score for piece in pieces for score in await scorer.read(piece)]
    finally:
        scorer.close()


def expected(artifact: Path, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of every token behind each of `ids`."""
    model: Any = AutoModelForCausalLM.from_pretrained(artifact)
    with torch.inference_mode():
        result: torch.Tensor = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return result


def test_scores_are_those_of_the_model_however_a_text_is_cut(engine: Engine, artifact: Path) -> None:
    ids = AutoTokenizer.from_pretrained(artifact)("The light of the sea. " * 40)["input_ids"]
    assert len(ids) > 300  # more than is computed at once
    logprobs = expected(artifact, ids)
    best = logprobs.topk(MAX_LOGPROBS)

    async def cut() -> list[list[IdScore]]:
        return [*await asyncio.gather(read(engine, ids), read(engine, ids[:1], ids[1:2], [], ids[2:200], ids[200:]))]

    for scores in asyncio.run(cut()):
        assert scores[0] == (None, [])
        assert [logprob for logprob, _ in scores[1:]] == pytest.approx([float(logprobs[at, id]) for at, id in enumerate(ids[1:])], abs=1e-3)
        for at, (_, top) in enumerate(scores[1:]):
            assert [value for _, value in top] == pytest.approx(best.values[at].tolist(), abs=1e-3)
            assert [id for id, _ in top] == sorted((id for id, _ in top), key=lambda id: -float(logprobs[at, id]))


def test_a_request_with_scores_has_the_text_of_one_without(engine: Engine, artifact: Path) -> None:
    llm = LLM(engine, document_start="<|endoftext|>")
    for prompt in PROMPTS:
        plain = asyncio.run(collect(llm.stream(prompt, SamplingParams(12, temperature=0))))
        first, *rest = asyncio.run(collect(llm.stream(prompt, SamplingParams(12, temperature=0, scores=3, prompt_scores=True))))
        assert "".join(token.text for token in rest) == "".join(token.text for token in plain)
        assert (first.count, len(first.scores)) == (0, llm.count(prompt))
        assert sum(score.characters for score in first.scores) == len(prompt)
        ids = [id for token in rest for id in token.ids]
        assert len(ids) == sum(len(token.scores) for token in rest)
        whole = [*engine.tokenizer.encode(f"<|endoftext|>{prompt}").ids, *ids]
        logprobs = expected(artifact, whole)[:-1].gather(-1, torch.tensor(whole[1:])[:, None])[:, 0]
        told = [score.logprob for token in (first, *rest) for score in token.scores]
        assert told == pytest.approx(logprobs.tolist(), abs=1e-3)
        assert all(score.top[0][1] == score.logprob for token in rest for score in token.scores)  # greedy


def test_nothing_is_generated_where_nothing_is_asked_for(engine: Engine) -> None:
    before = engine.steps
    llm = LLM(engine)
    assert asyncio.run(collect(llm.stream("The", SamplingParams(0)))) == [Token("", None, "length", 0)]
    (token,) = asyncio.run(collect(llm.stream("The", SamplingParams(0, scores=0, prompt_scores=True))))
    assert token.scores
    assert engine.steps == before


def test_ids_that_are_none_and_texts_that_do_not_fit_are_refused_before_anything_is_read(engine: Engine) -> None:
    llm = LLM(engine)
    for params in (SamplingParams(1), SamplingParams(1, scores=1)):
        with pytest.raises(UnknownIds, match="1,000 tokens: 1000 is the id of none"):
            asyncio.run(collect(llm.stream([5, 1000], params)))
        with pytest.raises(PromptTooLong):
            asyncio.run(collect(llm.stream([5] * 768, params)))


@pytest.mark.parametrize("name", ["openvino"])
def test_who_waits_for_scores_hears_of_an_engine_that_stops(artifact: Path, name: str) -> None:
    engine = build(name, artifact)

    async def ask() -> None:
        scorer = engine.scorer()
        closing = threading.Thread(target=engine.close)
        waiting = asyncio.ensure_future(scorer.read([5] * 700))
        await asyncio.sleep(0)
        closing.start()
        with pytest.raises(EngineStopped):
            await waiting
        closing.join()
        with pytest.raises(EngineStopped):
            await scorer.read([5])

    asyncio.run(ask())


def test_a_text_that_is_left_is_forgotten(engine: Engine) -> None:
    async def leave() -> list[IdScore]:
        for _ in range(50):
            scorer = engine.scorer()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await scorer.read([5] * 700)
            scorer.close()
        return await read(engine, [5, 6])

    assert len(asyncio.run(leave())) == 2
