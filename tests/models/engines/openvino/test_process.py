"""The CPU engine's process: its start, its failures, its batch."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import select
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.base import SamplingParams, Token
from models.engines import SCORED_TEXTS, EngineBusy, EngineStopped
from models.engines.openvino import EXACT, REPRODUCIBLE, OpenVINOEngine
from models.engines.openvino.batch import Batch
from models.engines.openvino.logprobs import read_logprobs
from models.engines.openvino.pipeline import activation_group_size, token_cache_bytes
from models.engines.openvino.process import load
from models.engines.openvino.scoring import ScoringModel
from models.engines.supervision.loop import serve
from models.engines.supervision.messages import AddRequest, Failure, Output, ReadLogprobs, Ready, Reply, StepReport
from tests.models.engines.conftest import collect, text_of


def test_a_model_that_cannot_be_loaded_is_an_error(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path, dirs_exist_ok=True)
    (tmp_path / "openvino/openvino_model.xml").write_text("no model")
    with pytest.raises(EngineStopped, match=r"(?s)the engine cannot start: .*openvino_model.xml"):
        OpenVINOEngine(tmp_path)


def test_a_process_that_cannot_start_is_an_error(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineStopped, match="the engine cannot start: its process exited with status 1"):
        OpenVINOEngine(artifact)


def converse(directory: Path, *messages: AddRequest) -> list[Ready | StepReport | Failure]:
    """Run the process's main function here and return its replies to `messages`."""
    ours, theirs = multiprocessing.Pipe()
    ours.send((directory, EXACT))
    for message in messages:
        ours.send(message)
    replies = []
    with contextlib.suppress(RuntimeError):
        serve(os.dup(theirs.fileno()), load)
    while ours.poll():
        replies.append(ours.recv())
    ours.close()
    theirs.close()
    return replies


def test_a_failing_step_is_reported_to_the_service(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batch: Batch) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Batch, "step", fail)
    assert converse(artifact, AddRequest(0, [1], SamplingParams(4), frozenset())) == [Ready(), Failure("out of memory")]


@pytest.mark.parametrize("steps", [0, 5])
def test_a_cancelled_request_takes_no_more_than_one_step(artifact: Path, steps: int) -> None:
    batch = Batch(artifact, EXACT)
    batch.add(AddRequest(0, [1], SamplingParams(700), frozenset()))
    for _ in range(steps):
        batch.step()
    batch.cancel(0)
    if not batch.idle:
        batch.step()  # the pipeline drops the request here
    assert batch.idle


def test_cancelling_a_reproducible_request_leaves_the_queued_ones_running(artifact: Path) -> None:
    batch = Batch(artifact, REPRODUCIBLE)
    reports = []
    for id in range(3):
        batch.add(AddRequest(id, [1], SamplingParams(4, temperature=0), frozenset()))
        reports.append(batch.step())
    assert batch.running == 3
    batch.cancel(0)
    batch.cancel(2)
    while not batch.idle:
        reports.append(batch.step())
    outputs = [output for report in reports if report for output in report.outputs if isinstance(output, Output)]
    assert [report.failures for report in reports if report and report.failures] == []
    assert sum(len(output.ids) for output in outputs if output.id == 1) == 4
    assert {output.id for output in outputs} == {0, 1}


def test_reproducible_requests_are_never_batched(artifact: Path) -> None:
    requests = [("The" * number, SamplingParams(20, temperature=2, seed=number)) for number in range(1, 9)]

    async def together(engine: OpenVINOEngine) -> list[list[Token]]:
        return await asyncio.gather(*(collect(engine.stream(*request)) for request in requests))

    with contextlib.closing(OpenVINOEngine(artifact, REPRODUCIBLE)) as engine:
        alone = [asyncio.run(collect(engine.stream(*request))) for request in requests]
        before = engine.steps
        assert asyncio.run(together(engine)) == alone
        assert engine.steps - before == sum(map(len, alone))


def run_batch(batch: Batch) -> dict[int, list[int]]:
    """Take steps until the batch is idle; return the tokens of each request."""
    tokens: dict[int, list[int]] = {}
    while not batch.idle:
        if report := batch.step():
            assert not report.failures
            for output in report.outputs:
                assert isinstance(output, Output)
                tokens.setdefault(output.id, []).extend(output.ids)
    return tokens


def run_answers(artifact: Path, *messages: AddRequest, prompt_lookup: bool) -> tuple[list[list[Output]], int]:
    """Run requests that draft from their prompts if `prompt_lookup`, in fp32. Returns the outputs of each, and the number of steps."""
    batch = Batch(artifact, replace(EXACT, prompt_lookup=prompt_lookup))
    outputs: dict[int, list[Output]] = {message.id: [] for message in messages}
    for message in messages:
        batch.add(message)
    while not batch.idle:
        if report := batch.step():
            assert not report.failures
            for output in report.outputs:
                assert isinstance(output, Output)
                outputs[output.id].append(output)
    assert batch.running == 0
    return list(outputs.values()), batch._steps


@pytest.mark.parametrize("length", [1, 2, 40])
def test_a_draft_from_the_prompt_changes_the_number_of_steps_alone(artifact: Path, length: int) -> None:
    params = SamplingParams(40, temperature=0, cumulative_logprob=True, prompt_lookup=True)
    ((*_, last),), _ = run_answers(artifact, AddRequest(0, [5, 6, 7], replace(params, final_only=True)), prompt_lookup=False)
    prompt = [5, 6, 7, *last.ids, 5, 6, 7]  # the text to come, if the model is asked to repeat itself
    message = AddRequest(0, prompt, replace(params, length=length))
    other = AddRequest(1, [9, 8, 7], replace(params, length=length, prompt_lookup=False))
    plain, plain_steps = run_answers(artifact, message, other, prompt_lookup=False)
    drafted, steps = run_answers(artifact, message, other, prompt_lookup=True)
    for one, two in zip(plain, drafted, strict=True):
        assert [id for output in two for id in output.ids] == [id for output in one for id in output.ids]
        assert sum(output.cumulative_logprob for output in two) == pytest.approx(sum(output.cumulative_logprob for output in one), abs=1e-3)
        assert two[-1].finish_reason == one[-1].finish_reason == "length"
    assert steps <= plain_steps
    _, alone_steps = run_answers(artifact, message, prompt_lookup=True)
    assert alone_steps < plain_steps or length < 3


def test_a_draft_ends_at_the_end_of_text(artifact: Path) -> None:
    params = SamplingParams(40, temperature=0, prompt_lookup=True)
    ((*_, last),), _ = run_answers(artifact, AddRequest(0, [5, 6, 7], replace(params, final_only=True)), prompt_lookup=False)
    end = frozenset(last.ids[-1:])
    for prompt_lookup in (False, True):
        (outputs,), _ = run_answers(artifact, AddRequest(0, [5, 6, 7], params, end), prompt_lookup=prompt_lookup)
        ids = [id for output in outputs for id in output.ids]
        assert ids[: len(ids) - 1] == last.ids[: last.ids.index(last.ids[-1])]
        assert outputs[-1].finish_reason == "stop"


def test_a_request_that_drafts_can_be_cancelled(artifact: Path) -> None:
    batch = Batch(artifact, replace(EXACT, prompt_lookup=True))
    for id, prompt_lookup in enumerate((True, False)):
        batch.add(AddRequest(id, [1], SamplingParams(700, temperature=0, prompt_lookup=prompt_lookup)))
    batch.step()
    batch.cancel(0)
    batch.step()
    assert batch.running == 1
    batch.cancel(1)
    batch.step()
    assert batch.idle


def ask_together(artifact: Path, prompts: list[list[int]], cancelled: int | None = None) -> tuple[dict[int, list[int]], int]:
    """Run all prompts at once, in steps of 32 tokens, and cancel one after the first step. Returns the tokens and the number of steps."""
    batch = Batch(artifact, replace(EXACT, step_tokens=32))
    for id, prompt in enumerate(prompts):
        batch.add(AddRequest(id, prompt, SamplingParams(4, temperature=0), frozenset()))
    batch.step()
    if cancelled is not None:
        batch.cancel(cancelled)
    tokens = run_batch(batch)
    assert batch.running == 0
    return tokens, batch._steps


def test_a_passage_is_read_once_for_questions_that_arrive_together(artifact: Path) -> None:
    passage = list(range(1, 257))  # eight steps
    tokens, steps = ask_together(artifact, [[*passage, 300 + id] for id in range(4)])
    assert steps < 16
    assert tokens == {id: ask_together(artifact, [[*passage, 300 + id]])[0][0] for id in range(4)}


def test_questions_do_not_wait_for_a_passage_that_is_not_theirs(artifact: Path) -> None:
    prompts = [[*range(start, start + 128)] for start in (1, 200, 400)]
    batch = Batch(artifact, replace(EXACT, step_tokens=512))
    for id, prompt in enumerate(prompts):
        batch.add(AddRequest(id, prompt, SamplingParams(4, temperature=0), frozenset()))
    report = batch.step()
    assert report
    assert len(report.outputs) == 3


def test_a_cancelled_question_leaves_the_others_about_its_passage_running(artifact: Path) -> None:
    passage = list(range(1, 257))
    for cancelled in (0, 2):  # the one that reads, and one that waits
        tokens, _ = ask_together(artifact, [[*passage, 300 + id] for id in range(4)], cancelled)
        assert {id: len(ids) for id, ids in tokens.items()} == {id: 4 for id in range(4) if id != cancelled}


def test_tokens_are_flushed_together_unless_stop_strings_need_each_token(artifact: Path) -> None:
    def generate(engine: OpenVINOEngine, **params: Any) -> list[Token]:
        return asyncio.run(collect(engine.stream("The", SamplingParams(200, seed=3, cumulative_logprob=True, **params))))

    with contextlib.closing(OpenVINOEngine(artifact, EXACT)) as engine:
        each = generate(engine)
        (whole,) = generate(engine, final_only=True)
        some = generate(engine, flush_interval=3600)  # longer than any machine takes
        assert len(generate(engine, flush_interval=3600, stop=("no such text",))) == len(each)
        (stopped,) = generate(engine, final_only=True, stop=(each[8].text + each[9].text,))
    assert stopped.text == text_of(each)[: text_of(each).index(each[8].text + each[9].text)]
    assert (stopped.finish_reason, stopped.count <= 10) == ("stop", True)
    assert {token.count for token in each} == {1}
    assert (some[0].count, len(some) < len(each)) == (1, True)
    for pieces in ([whole], some):
        assert text_of(pieces) == text_of(each)
        assert sum(piece.count for piece in pieces) == len(each)
        assert sum(piece.cumulative_logprob or 0 for piece in pieces) == pytest.approx(
            sum(token.cumulative_logprob or 0 for token in each), abs=1e-3
        )
        assert pieces[-1].finish_reason == each[-1].finish_reason


def test_a_prompt_that_is_not_valid_unicode_fails_alone(artifact: Path) -> None:
    with contextlib.closing(OpenVINOEngine(artifact, EXACT)) as engine:
        with pytest.raises(TypeError, match="must be str"):
            asyncio.run(collect(engine.stream("half a character: \ud83d", SamplingParams(4))))
        assert len(asyncio.run(collect(engine.stream("The", SamplingParams(4))))) == 4


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"n_embd": 768, "n_layer": 12, "n_head": 12}, 18_432),
        ({"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}, 11_520),
        ({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 32}, 512),
    ],
)
def test_the_cache_holds_keys_and_values_of_every_layer(config: dict[str, int], size: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert token_cache_bytes(tmp_path) == size


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"n_embd": 768}, 768),
        ({"n_embd": 64, "n_inner": 96}, 32),
        ({"hidden_size": 576, "intermediate_size": 1536}, 192),
    ],
)
def test_the_activation_group_size_divides_every_width_of_the_model(config: dict[str, int], size: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert activation_group_size(tmp_path) == size


def test_a_request_that_does_not_fit_into_the_cache_is_told_that_the_engine_is_busy(artifact: Path) -> None:
    with contextlib.closing(OpenVINOEngine(artifact, replace(EXACT, cache_contexts=0.2))) as engine:
        with pytest.raises(EngineBusy, match="cache is full"):
            asyncio.run(collect(engine.stream("The", SamplingParams(700))))
        assert len(asyncio.run(collect(engine.stream("The", SamplingParams(4))))) == 4


def test_few_texts_have_a_cache_for_their_logprobs_at_once(artifact: Path) -> None:
    model = ScoringModel(artifact, 256)
    for id in range(20):
        read_logprobs(model, ReadLogprobs(id, [5] * 300))
    read_logprobs(model, ReadLogprobs(3, [6]))  # more of a text that waits for its turn
    model.cancel(1)
    replies: list[Reply] = []
    caches = 0
    while len(replies) < 19:
        select.select([model.wakeup], [], [], 0 if replies or not model.idle else None)
        if reply := model.step():
            replies.append(reply)
            caches = max(caches, sum(task.may_run for task in model._tasks.values()))
            model.cancel(reply.id)
    assert {reply.error for reply in replies} == {None}
    assert caches == SCORED_TEXTS
    assert not model._tasks
