"""What both engines promise, on a tiny model with random weights; the CPU engine in full precision."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.base import PromptTooLong, SamplingParams, Token
from models.engines import Engine, EngineStopped, load_engine
from models.engines.openvino import OpenVINOEngine
from models.engines.openvino_messages import Add, Cancel, Failure, OpenVINOConfig, Ready, Report
from models.engines.openvino_process import Batch, main
from models.engines.transformers import Sampling, TransformersEngine
from models.sampling import _kept
from training.export import export_openvino

PROMPTS = ["The", "In the year 1889 the", "Question: who?\nAnswer:", "naïve café …"]


@pytest.fixture(scope="module")
def artifact(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory with the IR in it, as the store holds it."""
    directory = tmp_path_factory.mktemp("artifact")
    shutil.copytree(tiny_base, directory, dirs_exist_ok=True)
    export_openvino(directory, directory / "openvino", "fp32")
    return directory


def build(name: str, artifact: Path) -> Engine:
    return OpenVINOEngine(artifact, OpenVINOConfig(precision="f32")) if name == "openvino" else TransformersEngine(artifact)


@pytest.fixture(scope="module", params=["openvino", "transformers"])
def engine(request: pytest.FixtureRequest, artifact: Path) -> Iterator[Engine]:
    engine = build(request.param, artifact)
    yield engine
    engine.close()


async def collect(stream: AsyncGenerator[Token]) -> list[Token]:
    return [token async for token in stream]


def text_of(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def test_greedy_text_and_probabilities_are_those_of_generate(engine: Engine, artifact: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    model: Any = AutoModelForCausalLM.from_pretrained(artifact)

    async def together() -> list[list[Token]]:
        return await asyncio.gather(*(collect(engine.stream(prompt, SamplingParams(24, temperature=0))) for prompt in PROMPTS))

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
        SamplingParams(24, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        for seed, (temperature, top_k, top_p) in enumerate(wanted)
    ]

    async def together() -> list[list[Token]]:
        return await asyncio.gather(*(collect(engine.stream("The", params)) for params in mixed))

    greedy, narrow, _, _, nucleus, hot = map(text_of, asyncio.run(together()))
    assert greedy == narrow == nucleus != hot


@settings(deadline=None)
@given(st.data())
def test_transformers_draws_as_sample_defines_it(data: st.DataObject) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = draw.normal(0, data.draw(st.floats(0.1, 6)), 50)
    params = SamplingParams(
        temperature=data.draw(st.floats(0.1, 2)), top_k=data.draw(st.integers(0, 60)), top_p=data.draw(st.floats(0.01, 1))
    )
    weights = np.exp((logits - logits.max()) / params.temperature)
    kept = _kept(weights, min(params.top_k, 50), params.top_p)
    uniform = draw.random(64, dtype=np.float32)
    sampling = Sampling()
    numbers = torch.tensor([[params.temperature], [float(params.top_k)], [params.top_p], [0.0]]).repeat(1, 64)
    numbers[3] = torch.from_numpy(uniform)
    scores = torch.from_numpy(logits).float().repeat(64, 1)
    assert sampling(torch.zeros(64), scores, numbers.view(torch.int32)) is scores
    output = torch.zeros(2, 64, dtype=torch.int32)
    sampling.draw(scores, output)
    kept = kept[np.argsort(-weights[kept], kind="stable")]
    mass = weights[kept].cumsum()
    far = np.abs(mass[:, None] - uniform * mass[-1]).min(0) > 1e-4 * mass[-1]  # from where rounding decides
    expected = kept[np.minimum(np.searchsorted(mass, uniform * mass[-1], side="right"), len(kept) - 1)]
    cut = np.abs(np.sort(weights)[::-1].cumsum() / weights.sum() - params.top_p).min() if not params.top_k else 1
    if cut > 1e-5:
        assert output[0].numpy()[far].tolist() == expected[far].tolist()
    logprobs = output[1].view(torch.float32)
    assert logprobs.tolist() == pytest.approx(scores.log_softmax(-1)[0, output[0].long()].tolist(), abs=1e-5)


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
    before = engine.steps
    asyncio.run(collect(engine.stream("The", SamplingParams(10, temperature=0))))
    assert engine.steps - before <= 12  # and nothing is computed beside the next request


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
    before = engine.steps
    assert len(asyncio.run(collect(engine.stream("The", SamplingParams(10, temperature=0))))) == 10
    assert engine.steps - before <= 12
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


def test_a_process_that_dies_fails_every_waiting_request_and_those_to_come(
    artifact: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("bentoml"), "propagate", True)
    engine = OpenVINOEngine(artifact)

    async def both_fail() -> list[BaseException | list[Token]]:
        streams = [engine.stream("The", SamplingParams(700)) for _ in range(2)]
        for stream in streams:
            await anext(stream)
        assert engine.alive
        engine._process.kill()
        return await asyncio.gather(*(collect(stream) for stream in streams), return_exceptions=True)

    results = asyncio.run(both_fail())
    assert [str(result) for result in results] == ["the engine has failed; the service's log says why"] * 2
    assert all(isinstance(result, EngineStopped) for result in results)
    assert not engine.alive
    with pytest.raises(EngineStopped, match="the engine has failed"):
        asyncio.run(collect(engine.stream("The", SamplingParams(1))))
    engine.close()
    assert "its process has ended (exit status -9)" in caplog.text


def test_a_model_that_cannot_be_loaded_is_an_error(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path, dirs_exist_ok=True)
    (tmp_path / "openvino/openvino_model.xml").write_text("no model")
    with pytest.raises(EngineStopped, match=r"(?s)the engine cannot start: .*openvino_model.xml"):
        OpenVINOEngine(tmp_path)


def test_a_process_that_never_begins_is_an_error(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineStopped, match="the engine cannot start: its process ended with 1"):
        OpenVINOEngine(artifact)


def converse(directory: Path, *messages: Add | Cancel | None) -> list[Ready | Report | Failure]:
    """What the process's main says to `messages`, here in this process."""
    ours, theirs = multiprocessing.Pipe()
    ours.send((directory, OpenVINOConfig(precision="f32")))
    for message in messages:
        ours.send(message)
    answers = []
    with contextlib.suppress(RuntimeError):
        main(os.dup(theirs.fileno()))
    while ours.poll():
        answers.append(ours.recv())
    ours.close()
    theirs.close()
    return answers


def test_a_failing_step_is_told_to_the_service(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batch: Batch) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Batch, "step", fail)
    assert converse(artifact, Add(0, "The", SamplingParams(4))) == [Ready(768), Failure("out of memory")]


def test_a_request_that_leaves_before_its_first_step_costs_none(artifact: Path) -> None:
    answers = converse(artifact, Add(0, "The", SamplingParams(4)), Cancel(0), None)
    assert answers == [Ready(768)]


def test_the_default_engine_is_that_of_the_device(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.engines._has_cuda", lambda: False)
    engine = load_engine(artifact)
    assert isinstance(engine, OpenVINOEngine)
    engine.close()
    monkeypatch.setattr("models.engines._has_cuda", lambda: True)
    engine = load_engine(artifact)
    assert isinstance(engine, TransformersEngine)
    engine.close()
    with pytest.raises(ValueError, match="use auto, openvino or transformers"):
        load_engine(artifact, "tensorrt")


def test_int8_is_the_same_model_within_its_rounding(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path, dirs_exist_ok=True)
    export_openvino(artifact, tmp_path / "openvino")
    engine = load_engine(tmp_path, "openvino")
    reference = build("transformers", artifact)
    served, expected = (asyncio.run(collect(each.stream("The", SamplingParams(1, temperature=0)))) for each in (engine, reference))
    assert served[0].logprob == pytest.approx(expected[0].logprob, abs=0.05)
    engine.close()
    reference.close()
