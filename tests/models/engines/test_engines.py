"""What both engines promise, on a tiny model with random weights; the CPU engine in full precision."""

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from models.base import PromptTooLong, SamplingParams, Token
from models.engines import Engine, EngineStopped, load_engine
from models.engines.openvino import OpenVINOEngine
from models.engines.transformers import TransformersEngine
from training.export import export_openvino

PROMPTS = ["The", "In the year 1889 the", "Question: who?\nAnswer:", "naïve café …"]


@pytest.fixture(scope="module")
def artifact(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory with the IR in it, as the store holds it."""
    directory = tmp_path_factory.mktemp("artifact")
    shutil.copytree(tiny_base, directory, dirs_exist_ok=True)
    export_openvino(directory, directory / "openvino", int8=False)
    return directory


def build(name: str, artifact: Path) -> Engine:
    return OpenVINOEngine(artifact / "openvino", precision="f32") if name == "openvino" else TransformersEngine(artifact)


@pytest.fixture(scope="module", params=["openvino", "transformers"])
def engine(request: pytest.FixtureRequest, artifact: Path) -> Iterator[Engine]:
    engine = build(request.param, artifact)
    yield engine
    engine.close()


async def collect(stream: AsyncGenerator[Token]) -> list[Token]:
    return [token async for token in stream]


def text_of(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def test_both_give_the_same_greedy_text_and_probabilities(artifact: Path) -> None:
    engines = [build(name, artifact) for name in ("openvino", "transformers")]

    async def both(prompt: str) -> list[list[Token]]:
        return [await collect(engine.stream(prompt, SamplingParams(24, temperature=0))) for engine in engines]

    for prompt in PROMPTS:
        served, reference = asyncio.run(both(prompt))
        assert text_of(served) == text_of(reference)
        assert [token.logprob for token in served] == pytest.approx([token.logprob for token in reference], abs=1e-3)
    for engine in engines:
        engine.close()


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


def test_what_is_left_behind_is_not_computed(artifact: Path) -> None:
    engine = build("openvino", artifact)
    assert isinstance(engine, OpenVINOEngine)

    async def leave() -> None:
        streams = [engine.stream("The", SamplingParams(700, temperature=0)) for _ in range(4)]
        for stream in streams:
            await anext(stream)
        for stream in streams:
            await stream.aclose()
        deadline = time.monotonic() + 5
        while engine._pipeline.has_non_finished_requests():
            assert time.monotonic() < deadline, "the engine still works for requests that were closed"
            await asyncio.sleep(0.01)

    began = time.monotonic()
    asyncio.run(leave())
    left_after = time.monotonic() - began
    began = time.monotonic()
    asyncio.run(collect(engine.stream("The", SamplingParams(700, temperature=0))))
    assert left_after < time.monotonic() - began  # less than one of the four takes to its end
    engine.close()


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
        with pytest.raises(EngineStopped):
            asyncio.run(collect(engine.stream("The", SamplingParams(1))))


def test_a_failure_in_the_engines_thread_reaches_every_waiting_request(artifact: Path) -> None:
    engine = OpenVINOEngine(artifact / "openvino")

    class Failing:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("out of memory")

    async def both_fail() -> list[BaseException | list[Token]]:
        streams = [engine.stream("The", SamplingParams(700)) for _ in range(2)]
        for stream in streams:
            await anext(stream)
        engine._pipeline = Failing()
        return await asyncio.gather(*(collect(stream) for stream in streams), return_exceptions=True)

    results = asyncio.run(both_fail())
    assert [str(result) for result in results] == ["the engine has failed: out of memory"] * 2


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
    export_openvino(artifact, tmp_path / "openvino", int8=True)
    engine = load_engine(tmp_path, "openvino")
    reference = build("transformers", artifact)
    served, expected = (asyncio.run(collect(each.stream("The", SamplingParams(1, temperature=0)))) for each in (engine, reference))
    assert served[0].logprob == pytest.approx(expected[0].logprob, abs=0.05)
    engine.close()
    reference.close()
