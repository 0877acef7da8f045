"""The behaviour that both engines share, on a tiny model with random weights."""

import asyncio
import random
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.base import PromptTooLong, SamplingParams, Token
from models.engines import Engine, EngineStopped, load_engine
from models.engines.openvino import OpenVINOEngine
from models.engines.transformers import TransformersEngine
from tests.conftest import HANG_SECONDS
from tests.models.engines.conftest import PROMPTS, Paced, build_paced, collect, text_of


def test_greedy_text_and_probabilities_are_those_of_generate(engine: Engine, artifact: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    model: Any = AutoModelForCausalLM.from_pretrained(artifact)

    async def together() -> list[list[Token]]:
        return await asyncio.gather(
            *(collect(engine.stream(prompt, SamplingParams(24, temperature=0, cumulative_logprob=True))) for prompt in PROMPTS)
        )

    for prompt, generated in zip(PROMPTS, asyncio.run(together()), strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        expected = model.generate(
            **inputs, max_new_tokens=24, do_sample=False, pad_token_id=0, return_dict_in_generate=True, output_logits=True
        )
        ids = expected.sequences[0, inputs["input_ids"].shape[1] :]
        logprobs = [float(logits[0].log_softmax(-1)[id]) for logits, id in zip(expected.logits, ids, strict=True)]
        assert text_of(generated) == str(tokenizer.decode(ids, skip_special_tokens=True)).rstrip("\N{REPLACEMENT CHARACTER}")
        assert [token.cumulative_logprob for token in generated] == pytest.approx(logprobs, abs=1e-3)


def test_requests_in_a_batch_keep_their_own_parameters(engine: Engine) -> None:
    sampling = [(0, 0, 1.0), (2, 1, 1.0), (0.8, 0, 0.9), (1, 5, 1.0), (1.5, 0, 1e-6), (2, 0, 1.0)]
    mixed = [
        SamplingParams(24, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, cumulative_logprob=True)
        for seed, (temperature, top_k, top_p) in enumerate(sampling)
    ]

    async def together() -> list[list[Token]]:
        return await asyncio.gather(*(collect(engine.stream("The", params)) for params in mixed))

    # Compare probabilities, because the text of a tiny model may be empty.
    greedy, narrow, _, _, nucleus, hot = ([token.cumulative_logprob for token in tokens] for tokens in asyncio.run(together()))
    assert narrow == pytest.approx(greedy, abs=1e-4)
    assert nucleus == pytest.approx(greedy, abs=1e-4)
    assert hot != pytest.approx(greedy, abs=0.1)


def test_a_text_ends_at_the_requested_length(engine: Engine) -> None:
    tokens = asyncio.run(collect(engine.stream("The", SamplingParams(7))))
    assert len(tokens) == 7
    assert [token.finish_reason for token in tokens] == [None] * 6 + ["length"]


def test_the_same_seed_gives_the_same_text(engine: Engine) -> None:
    one, again, other = (
        text_of(asyncio.run(collect(engine.stream("The", SamplingParams(20, temperature=1.0, seed=seed))))) for seed in (5, 5, 6)
    )
    assert one == again != other


def test_top_k_one_is_greedy(engine: Engine) -> None:
    greedy, narrow = (
        text_of(asyncio.run(collect(engine.stream("The", params))))
        for params in (SamplingParams(12, temperature=0), SamplingParams(12, temperature=1.5, top_k=1))
    )
    assert greedy == narrow


def test_requests_of_different_lengths_run_together(engine: Engine) -> None:
    async def together() -> list[list[Token]]:
        lengths = range(1, 17)
        return await asyncio.gather(*(collect(engine.stream(PROMPTS[n % 4], SamplingParams(n, temperature=1, seed=n))) for n in lengths))

    for length, tokens in enumerate(asyncio.run(together()), start=1):
        assert [token.finish_reason for token in tokens[:-1]] == [None] * (len(tokens) - 1)
        assert tokens[-1].finish_reason == "stop" or len(tokens) == length


def test_closing_a_stream_leaves_the_others_running(engine: Engine) -> None:
    async def leave() -> list[Token]:
        abandoned = engine.stream("The", SamplingParams(500))
        other = asyncio.create_task(collect(engine.stream("In", SamplingParams(30))))
        async for _ in abandoned:
            break
        await abandoned.aclose()
        return await other

    assert len(asyncio.run(leave())) == 30
    assert len(asyncio.run(collect(engine.stream("The", SamplingParams(3))))) == 3


async def take(stream: AsyncGenerator[Token], count: int) -> list[Token]:
    return [await anext(stream) for _ in range(count)]


def test_closed_streams_take_no_more_steps(paced: Paced) -> None:
    async def leave() -> None:
        streams = [paced.engine.stream("The", SamplingParams(700, temperature=0)) for _ in range(4)]
        await paced.pace.step_until(asyncio.gather(*(take(stream, 20) for stream in streams)))
        for stream in streams:
            await stream.aclose()
        await paced.pace.step_until(paced.wait_until_idle())

    before = paced.engine.steps
    paced.pace.hold()
    try:
        asyncio.run(leave())
        assert 20 <= paced.engine.steps - before < 600  # a step serves all four streams, and none of them took its 700
    finally:
        paced.pace.release()
    check_that_only_a_new_request_takes_steps(paced.engine)


def check_that_only_a_new_request_takes_steps(engine: Engine) -> None:
    before = engine.steps
    assert len(asyncio.run(collect(engine.stream("The", SamplingParams(10, temperature=0))))) == 10
    assert engine.steps - before <= 12


def test_a_thousand_requests_cancelled_at_random_moments_leave_nothing_behind(paced: Paced) -> None:
    draw = random.Random(0)

    async def cancel_after_a_while(n: int) -> None:
        task = asyncio.create_task(collect(paced.engine.stream(PROMPTS[n % 4], SamplingParams(draw.randint(1, 200), seed=n))))
        await asyncio.sleep(draw.random() * 0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def cancel_all() -> None:
        for first in range(0, 1000, 100):
            await asyncio.gather(*(cancel_after_a_while(n) for n in range(first, first + 100)))
        await paced.wait_until_idle()

    asyncio.run(cancel_all())
    check_that_only_a_new_request_takes_steps(paced.engine)
    asyncio.run(paced.wait_until_idle())


def test_a_prompt_may_fill_the_context_but_not_exceed_it(engine: Engine) -> None:
    with pytest.raises(PromptTooLong, match="exceeds the model's context of 768"):
        asyncio.run(collect(engine.stream("x" * 4000, SamplingParams(1))))
    tokens = asyncio.run(collect(engine.stream("!", SamplingParams(767))))
    assert len(tokens) == 767 or tokens[-1].finish_reason == "stop"


@pytest.mark.parametrize("name", ["openvino", "transformers"])
def test_a_closed_engine_fails_running_and_new_requests(artifact: Path, tmp_path: Path, name: str) -> None:
    paced = build_paced(name, artifact, tmp_path)
    engine = paced.engine

    async def close_while_running() -> None:
        stream = engine.stream("The", SamplingParams(700))
        await paced.pace.step_until(anext(stream))
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        async with asyncio.timeout(HANG_SECONDS):
            while engine.alive:
                await asyncio.sleep(0.01)
        paced.pace.release()
        with pytest.raises(EngineStopped):
            await collect(stream)
        await closing

    paced.pace.hold()
    asyncio.run(close_while_running())
    assert not engine.alive
    with pytest.raises(EngineStopped):
        asyncio.run(collect(engine.stream("The", SamplingParams(1))))


def test_the_default_engine_depends_on_the_device(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.engines._has_cuda", lambda: False)
    engine = load_engine(artifact)
    assert isinstance(engine, OpenVINOEngine)
    engine.close()
    monkeypatch.setattr("models.engines._has_cuda", lambda: True)
    engine = load_engine(artifact)
    assert isinstance(engine, TransformersEngine)
    engine.close()
    engine = load_engine(artifact, reproducible=True)
    assert isinstance(engine, OpenVINOEngine)
    engine.close()
    with pytest.raises(ValueError, match="use the openvino engine"):
        load_engine(artifact, "transformers", reproducible=True)
    with pytest.raises(ValueError, match="use auto, openvino or transformers"):
        load_engine(artifact, "tensorrt")
