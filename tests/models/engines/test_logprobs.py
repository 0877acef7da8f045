"""The log-probabilities that both engines compute, compared with the logits of the model itself."""

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import openvino
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.base import NOTHING_GENERATED, PromptLogprobs, PromptTooLong, SamplingParams, Token, UnknownIds
from models.engines import MAX_LOGPROBS, Engine, EngineStopped, IdLogprob
from models.engines.openvino.logprobs import read_logprobs
from models.engines.openvino.scoring import ScoringModel
from models.engines.supervision.messages import ReadLogprobs, Reply
from models.engines.transformers_logprobs import LogprobModel, TransformersLogprobReader
from models.llm import LLM
from tests.conftest import wait_until
from tests.models.engines.conftest import PROMPTS, HeldForward, build, collect, text_of


async def read(engine: Engine, *pieces: list[int]) -> list[IdLogprob]:
    reader = engine.logprob_reader()
    try:
        return [logprob for piece in pieces for logprob in await reader.read(piece)]
    finally:
        reader.close()


def expected(artifact: Path, ids: list[int]) -> torch.Tensor:
    """Return the log-probabilities of every token after each of `ids`."""
    model: Any = AutoModelForCausalLM.from_pretrained(artifact)
    with torch.inference_mode():
        result: torch.Tensor = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return result


def test_logprobs_equal_those_of_the_model_however_a_text_is_cut(engine: Engine, artifact: Path) -> None:
    ids = AutoTokenizer.from_pretrained(artifact)("The light of the sea. " * 40)["input_ids"]
    assert len(ids) > 300  # more than is computed at once
    logprobs = expected(artifact, ids)
    best = logprobs.topk(MAX_LOGPROBS)

    async def cut() -> list[list[IdLogprob]]:
        return [*await asyncio.gather(read(engine, ids), read(engine, ids[:1], ids[1:2], [], ids[2:200], ids[200:]))]

    for logprobs_read in asyncio.run(cut()):
        assert logprobs_read[0] == (None, [])
        assert [logprob for logprob, _ in logprobs_read[1:]] == pytest.approx(
            [float(logprobs[at, id]) for at, id in enumerate(ids[1:])], abs=1e-3
        )
        for at, (_, top) in enumerate(logprobs_read[1:]):
            assert [value for _, value in top] == pytest.approx(best.values[at].tolist(), abs=1e-3)
            assert [id for id, _ in top] == sorted((id for id, _ in top), key=lambda id: -float(logprobs[at, id]))


def test_a_request_with_logprobs_has_the_same_text_as_one_without(engine: Engine, artifact: Path) -> None:
    llm = LLM(engine, document_start="<|endoftext|>")

    async def with_prompt(prompt: str) -> tuple[PromptLogprobs, list[Token]]:
        first, *rest = [item async for item in llm.stream_with_prompt_logprobs(prompt, SamplingParams(12, temperature=0, logprobs=3))]
        assert isinstance(first, PromptLogprobs)
        return first, [token for token in rest if isinstance(token, Token)]

    for prompt in PROMPTS:
        plain = asyncio.run(collect(llm.stream(prompt, SamplingParams(12, temperature=0))))
        first, rest = asyncio.run(with_prompt(prompt))
        assert text_of(rest) == text_of(plain)
        assert len(first.logprobs) == llm.count(prompt)
        assert sum(token.characters for token in first.logprobs) == len(prompt)
        ids = [id for token in rest for id in token.ids]
        assert len(ids) == sum(len(token.logprobs) for token in rest)
        whole = [*llm.document_start, *engine.tokenizer.encode(prompt).ids, *ids]
        logprobs = expected(artifact, whole)[:-1].gather(-1, torch.tensor(whole[1:])[:, None])[:, 0]
        computed = [entry.logprob for entries in (first.logprobs, *(token.logprobs for token in rest)) for entry in entries]
        assert computed == pytest.approx(logprobs.tolist(), abs=1e-3)
        assert all(entry.top[0][1] == entry.logprob for token in rest for entry in token.logprobs)  # greedy
        without_prompt = asyncio.run(collect(llm.stream(prompt, SamplingParams(12, temperature=0, logprobs=3))))
        assert [token.ids for token in without_prompt] == [token.ids for token in rest]
        assert [entry.logprob for token in without_prompt for entry in token.logprobs] == pytest.approx(
            [entry.logprob for token in rest for entry in token.logprobs], abs=1e-3
        )


def test_a_length_of_zero_generates_nothing(engine: Engine) -> None:
    before = engine.steps
    llm = LLM(engine)
    assert asyncio.run(collect(llm.stream("The", SamplingParams(0)))) == [NOTHING_GENERATED]

    async def prompt_alone() -> list[PromptLogprobs | Token]:
        return [item async for item in llm.stream_with_prompt_logprobs("The", SamplingParams(0, logprobs=0))]

    prompt, *rest = asyncio.run(prompt_alone())
    assert prompt.logprobs
    assert rest == [NOTHING_GENERATED]
    assert engine.steps == before


def test_unknown_ids_and_long_prompts_are_rejected(engine: Engine) -> None:
    llm = LLM(engine)
    for params in (SamplingParams(1), SamplingParams(1, logprobs=1)):
        with pytest.raises(UnknownIds, match="1000 is not a token id of this model, which has 1,000 tokens"):
            asyncio.run(collect(llm.stream([5, 1000], params)))
        with pytest.raises(PromptTooLong):
            asyncio.run(collect(llm.stream([5] * 768, params)))


@pytest.mark.parametrize("name", ["openvino"])
def test_a_waiting_reader_learns_that_the_engine_has_stopped(artifact: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    engine = build(name, artifact)
    monkeypatch.setattr(engine, "_deliver_reply", lambda reply: None)  # else the reply may come before the engine has stopped

    async def read_while_closing() -> None:
        reader = engine.logprob_reader()
        closing = threading.Thread(target=engine.close)
        waiting = asyncio.ensure_future(reader.read([5] * 700))
        await asyncio.sleep(0)
        closing.start()
        with pytest.raises(EngineStopped):
            await waiting
        closing.join()
        with pytest.raises(EngineStopped):
            await reader.read([5])

    asyncio.run(read_while_closing())


def test_abandoned_readers_do_not_disturb_the_next_one(engine: Engine) -> None:
    async def abandon() -> list[IdLogprob]:
        for _ in range(50):
            reader = engine.logprob_reader()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await reader.read([5] * 700)
            reader.close()
        return await read(engine, [5, 6])

    assert len(asyncio.run(abandon())) == 2


@pytest.mark.parametrize("stopped", ["the text is dropped", "the engine is closed"])
def test_the_reference_stops_reading_between_two_chunks(artifact: Path, stopped: str) -> None:
    model = LogprobModel(artifact, torch.device("cpu"))
    reader = TransformersLogprobReader(model)
    held = HeldForward(model._model)

    async def stop_in_the_first_chunk() -> None:
        reading = asyncio.ensure_future(reader.read([5] * 700))
        await held.wait_for_pass()
        if stopped == "the text is dropped":
            reader.close()
        else:
            model.closed = True
        held.go_on()
        with pytest.raises(EngineStopped):
            await reading

    asyncio.run(stop_in_the_first_chunk())
    assert held.passes == 1


IDS = [5, 6, 7]


def read_alone(model: ScoringModel, id: int) -> Reply:
    replies: list[Reply] = []
    read_logprobs(model, ReadLogprobs(id, IDS))

    def replied() -> bool:
        if reply := model.step():
            replies.append(reply)
        return bool(replies)

    wait_until(replied, "the text is read")
    return replies[0]


def test_a_model_that_could_not_be_compiled_is_compiled_for_the_next_text(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact / "openvino", tmp_path / "openvino")
    ir = tmp_path / "openvino/openvino_model.xml"
    ir.rename(tmp_path / "away")
    model = ScoringModel(tmp_path, 256)
    failed = read_alone(model, 1)
    assert failed.error
    assert not failed.busy
    (tmp_path / "away").rename(ir)
    assert len(read_alone(model, 2).value) == len(IDS)


def test_a_lack_of_memory_is_no_room(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Exception from src/inference/src/cpp/core.cpp:84:\nConverting input model\nstd::bad_alloc\n")

    with monkeypatch.context() as patched:
        patched.setattr(openvino, "Core", fail)
        model = ScoringModel(artifact, 256)
        assert read_alone(model, 1) == Reply(1, error="the engine has no memory left", busy=True)
    assert len(read_alone(model, 2).value) == len(IDS)
