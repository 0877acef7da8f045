"""The CPU engine's process: how it begins, fails and ends."""

import asyncio
import contextlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest

from models.base import SamplingParams, Token
from models.engines import EngineStopped, load_engine
from models.engines.openvino import OpenVINOEngine
from models.engines.openvino_messages import EXACT, REPRODUCIBLE, Add, Failure, Ready, Report
from models.engines.openvino_process import Batch, activation_group, main
from tests.models.engines.conftest import build, collect, text_of
from training.export.openvino_ir import export_openvino


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


def converse(directory: Path, *messages: Add) -> list[Ready | Report | Failure]:
    """What the process's main says to `messages`, here in this process."""
    ours, theirs = multiprocessing.Pipe()
    ours.send((directory, EXACT))
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
    assert converse(artifact, Add(0, [1], SamplingParams(4), frozenset())) == [Ready(), Failure("out of memory")]


def test_a_request_that_leaves_before_its_first_step_costs_one_at_most(artifact: Path) -> None:
    batch = Batch(artifact, EXACT)
    batch.add(Add(0, [1], SamplingParams(4), frozenset()))
    batch.cancel(0)
    if not batch.idle:
        batch.step()  # at which it leaves
    assert batch.idle


def test_reproducible_requests_have_no_company(artifact: Path) -> None:
    wanted = [("The" * number, SamplingParams(20, temperature=2, seed=number)) for number in range(1, 9)]

    async def together(engine: OpenVINOEngine) -> list[list[Token]]:
        return await asyncio.gather(*(collect(engine.stream(*each)) for each in wanted))

    with contextlib.closing(OpenVINOEngine(artifact, REPRODUCIBLE)) as engine:
        alone = [asyncio.run(collect(engine.stream(*each))) for each in wanted]
        before = engine.steps
        assert asyncio.run(together(engine)) == alone
        assert engine.steps - before == sum(map(len, alone))


def test_tokens_are_handed_out_together_when_nobody_looks_for_each(artifact: Path) -> None:
    def generate(engine: OpenVINOEngine, interval: float, *stop: str) -> list[Token]:
        return asyncio.run(collect(engine.stream("The", SamplingParams(200, seed=3, interval=interval, stop=stop, logprobs=True))))

    with contextlib.closing(OpenVINOEngine(artifact, EXACT)) as engine:
        each = generate(engine, 0)
        (whole,) = generate(engine, math.inf)
        some = generate(engine, 0.02)
        assert len(generate(engine, math.inf, "no such text")) == len(each)
    assert {token.count for token in each} == {1}
    assert (some[0].count, len(some) < len(each)) == (1, True)
    for pieces in ([whole], some):
        assert text_of(pieces) == text_of(each)
        assert sum(piece.count for piece in pieces) == len(each)
        assert sum(piece.logprob or 0 for piece in pieces) == pytest.approx(sum(token.logprob or 0 for token in each), abs=1e-3)
        assert pieces[-1].finish_reason == each[-1].finish_reason


def test_a_prompt_that_is_no_text_fails_alone(artifact: Path) -> None:
    with contextlib.closing(OpenVINOEngine(artifact, EXACT)) as engine:
        with pytest.raises(TypeError, match="must be str"):
            asyncio.run(collect(engine.stream("half a character: \ud83d", SamplingParams(4))))
        assert len(asyncio.run(collect(engine.stream("The", SamplingParams(4))))) == 4


@pytest.mark.parametrize(
    ("config", "width"),
    [
        ({"n_embd": 768}, 768),
        ({"n_embd": 64, "n_inner": 96}, 32),
        ({"hidden_size": 576, "intermediate_size": 1536}, 192),
    ],
)
def test_a_group_of_activations_divides_every_width_of_the_model(config: dict[str, int], width: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert activation_group(tmp_path) == width


def test_int8_is_the_same_model_within_its_rounding(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path, dirs_exist_ok=True)
    export_openvino(artifact, tmp_path / "openvino")
    engine = load_engine(tmp_path, "openvino")
    reference = build("transformers", artifact)
    served, expected = (
        asyncio.run(collect(each.stream("The", SamplingParams(1, temperature=0, logprobs=True)))) for each in (engine, reference)
    )
    assert served[0].logprob == pytest.approx(expected[0].logprob, abs=0.05)
    engine.close()
    reference.close()
