"""What both engines promise, on a tiny model with random weights."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.base import PromptTooLong, SamplingParams, Token
from models.engines import Engine, EngineStopped, load_engine
from models.engines.openvino import OpenVINOEngine
from models.engines.transformers import TransformersEngine
from tests.models.engines.conftest import PROMPTS, build, collect, text_of


def test_greedy_text_and_probabilities_are_those_of_generate(engine: Engine, artifact: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    model: Any = AutoModelForCausalLM.from_pretrained(artifact)

    async def together() -> list[list[Token]]:
        return await asyncio.gather(
            *(collect(engine.stream(prompt, SamplingParams(24, temperature=0, logprobs=True))) for prompt in PROMPTS)
        )

    for prompt, served in zip(PROMPTS, asyncio.run(together()), strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        expected = model.generate(
            **inputs, max_new_tokens=24, do_sample=False, pad_token_id=0, return_dict_in_generate=True, output_logits=True
        )
        ids = expected.sequences[0, inputs["input_ids"].shape[1] :]
        logprobs = [float(logits[0].log_softmax(-1)[id]) for logits, id in zip(expected.logits, ids, strict=True)]
        assert text_of(served) == str(tokenizer.decode(ids, skip_special_tokens=True)).rstrip("\N{REPLACEMENT CHARACTER}")
        assert [token.logprob for token in served] == pytest.approx(logprobs, abs=1e-3)


def test_parameters_of_one_request_are_not_those_of_its_neighbours(engine: Engine) -> None:
    wanted = [(0, 0, 1.0), (2, 1, 1.0), (0.8, 0, 0.9), (1, 5, 1.0), (1.5, 0, 1e-6), (2, 0, 1.0)]
    mixed = [
        SamplingParams(24, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, logprobs=True)
        for seed, (temperature, top_k, top_p) in enumerate(wanted)
    ]

    async def together() -> list[list[Token]]:
        return await asyncio.gather(*(collect(engine.stream("The", params)) for params in mixed))

    # By their probabilities, for the text of a tiny model may be no character at all.
    greedy, narrow, _, _, nucleus, hot = ([token.logprob for token in tokens] for tokens in asyncio.run(together()))
    assert narrow == pytest.approx(greedy, abs=1e-4)
    assert nucleus == pytest.approx(greedy, abs=1e-4)
    assert hot != pytest.approx(greedy, abs=0.1)


def test_length_is_kept_and_said(engine: Engine) -> None:
    tokens = asyncio.run(collect(engine.stream("The", SamplingParams(7))))
    assert len(tokens) == 7
    assert [token.finish_reason for token in tokens] == [None] * 6 + ["length"]


def test_same_seed_same_text(engine: Engine) -> None:
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


def test_closing_the_iterator_stops_the_request_and_no_other(engine: Engine) -> None:
    async def leave() -> list[Token]:
        abandoned = engine.stream("The", SamplingParams(500))
        other = asyncio.create_task(collect(engine.stream("In", SamplingParams(30))))
        async for _ in abandoned:
            break
        await abandoned.aclose()
        return await other

    assert len(asyncio.run(leave())) == 30
    assert len(asyncio.run(collect(engine.stream("The", SamplingParams(3))))) == 3


async def until_idle(engine: Engine) -> None:
    deadline = time.monotonic() + 5
    while engine.running:
        assert time.monotonic() < deadline, "the engine still works for requests that were closed"
        await asyncio.sleep(0.01)


def check_that_nothing_goes_on(engine: Engine) -> None:
    before = engine.steps
    time.sleep(0.5)  # in which what went on would take its steps
    assert len(asyncio.run(collect(engine.stream("The", SamplingParams(10, temperature=0))))) == 10
    assert engine.steps - before <= 12


def test_what_is_left_behind_is_not_computed(engine: Engine) -> None:
    async def leave() -> None:
        streams = [engine.stream("The", SamplingParams(700, temperature=0)) for _ in range(4)]
        for stream in streams:
            for _ in range(20):
                await anext(stream)
        for stream in streams:
            await stream.aclose()
        await until_idle(engine)

    before = engine.steps
    asyncio.run(leave())
    assert 20 <= engine.steps - before < 600  # steps serve all four; none went on to its 700 tokens
    check_that_nothing_goes_on(engine)


def test_a_thousand_requests_cancelled_at_random_moments_leave_nothing_behind(engine: Engine) -> None:
    draw = random.Random(0)

    async def cancelled(n: int) -> None:
        task = asyncio.create_task(collect(engine.stream(PROMPTS[n % 4], SamplingParams(draw.randint(1, 200), seed=n))))
        await asyncio.sleep(draw.random() * 0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def all_of_them() -> None:
        for first in range(0, 1000, 50):
            await asyncio.gather(*(cancelled(n) for n in range(first, first + 50)))
        await until_idle(engine)

    asyncio.run(all_of_them())
    check_that_nothing_goes_on(engine)
    asyncio.run(until_idle(engine))


def test_a_prompt_that_does_not_fit_is_refused_and_one_that_just_fits_is_not(engine: Engine) -> None:
    with pytest.raises(PromptTooLong, match="exceeds the model's context of 768"):
        asyncio.run(collect(engine.stream("x" * 4000, SamplingParams(1))))
    tokens = asyncio.run(collect(engine.stream("!", SamplingParams(767))))
    assert len(tokens) == 767 or tokens[-1].finish_reason == "stop"


def test_a_closed_engine_refuses_and_fails_those_who_wait(artifact: Path) -> None:
    for name in ("openvino", "transformers"):
        engine = build(name, artifact)

        async def closed_under_way(engine: Engine) -> None:
            stream = engine.stream("The", SamplingParams(700))
            await anext(stream)
            await asyncio.to_thread(engine.close)
            await collect(stream)

        with pytest.raises(EngineStopped):
            asyncio.run(closed_under_way(engine))
        assert not engine.alive
        with pytest.raises(EngineStopped):
            asyncio.run(collect(engine.stream("The", SamplingParams(1))))


def test_the_default_engine_is_that_of_the_device(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(ValueError, match="take openvino"):
        load_engine(artifact, "transformers", reproducible=True)
    with pytest.raises(ValueError, match="use auto, openvino or transformers"):
        load_engine(artifact, "tensorrt")
