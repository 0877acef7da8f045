"""The search for the best spans on both engines, compared with the logits of the model itself."""

import asyncio
import select
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from models.base import PromptTooLong, SamplingParams
from models.engines import Engine, EngineStopped, ScoredSpan
from models.engines.openvino.logprobs import read_logprobs
from models.engines.openvino.scoring import ScoringModel
from models.engines.spans.openvino import SpanTask
from models.engines.spans.transformers import best_spans
from models.engines.supervision.messages import FindSpans, ReadLogprobs, Reply
from models.engines.tokenization import load_tokenizer
from models.engines.transformers_logprobs import LogprobModel
from models.spans import Spans
from tests.conftest import HANG_SECONDS
from tests.models.engines.conftest import HeldForward, build, collect

PASSAGE = 'The light of the "Eddystone" (1759) cost £40,000; the naïve keeper\tsaw the sea.'
PROMPT = f"Context: {PASSAGE}\nQuestion: What did the light cost?\nAnswer:"
MANY = 10_000
"""More than the passage has spans, so that the search keeps them all."""


@pytest.fixture(scope="module")
def spans(artifact: Path) -> Spans:
    return Spans.of(load_tokenizer(artifact), PASSAGE, 6)


@pytest.fixture(scope="module")
def prompt(artifact: Path) -> list[int]:
    ids: list[int] = load_tokenizer(artifact).encode(PROMPT).ids
    return ids


def candidates(spans: Spans) -> Iterator[tuple[int, ...]]:
    """Return the ids of every candidate."""
    ends = [(row, int(end)) for row, places in enumerate(spans.trie.may_end) for end in places.nonzero()[0]]
    found = {tuple(spans.trie.ids[row, : end + 1].tolist()) for row, end in ends}
    yield from sorted(found)


def expected(artifact: Path, prompt: list[int], ids: tuple[int, ...], eos: set[int]) -> float:
    """Return the log-probability of a candidate and the end."""
    model: Any = AutoModelForCausalLM.from_pretrained(artifact)
    with torch.inference_mode():
        logprobs = model(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)[len(prompt) - 1 :]
    tokens = sum(float(row[id]) for row, id in zip(logprobs, ids, strict=False))
    return tokens + float(logprobs[-1, sorted(eos)].logsumexp(0))


def search(engine: Engine, prompt: list[int], spans: Spans, count: int) -> list[ScoredSpan]:
    return asyncio.run(engine.best_spans(prompt, spans.trie, count))


@pytest.mark.parametrize("eos", [{0}, {0, 7, 300}])
def test_a_search_that_keeps_every_span_finds_the_probabilities_of_all(
    engine: Engine, artifact: Path, spans: Spans, prompt: list[int], eos: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.limits, "eos", frozenset(eos))
    logprobs = {ids: expected(artifact, prompt, ids, eos) for ids in candidates(spans)}
    found = search(engine, prompt, spans, MANY)
    assert len(found) == len(logprobs) > 50
    assert {span.ids: span.logprob for span in found} == pytest.approx(logprobs, abs=1e-3)
    assert [span.logprob for span in found] == sorted((span.logprob for span in found), reverse=True)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_search_returns_the_best_spans_that_it_finds(engine: Engine, artifact: Path, spans: Spans, prompt: list[int], count: int) -> None:
    best = search(engine, prompt, spans, MANY)
    found = search(engine, prompt, spans, count)
    assert len(found) == len({span.ids for span in found}) == count
    everything = {span.ids: span.logprob for span in best}
    assert [span.logprob for span in found] == pytest.approx([everything[span.ids] for span in found], abs=1e-3)
    assert [span.logprob for span in found] == sorted((span.logprob for span in found), reverse=True)
    for span in found:
        assert {PASSAGE[start:end] for start, end in spans.occurrences(span.ids)} == {engine.tokenizer.decode(span.ids).strip()}


def test_both_engines_find_the_same_spans(artifact: Path, spans: Spans, prompt: list[int]) -> None:
    results = []
    for name in ("openvino", "transformers"):
        with closing(build(name, artifact)) as engine:
            results.append(search(engine, prompt, spans, 5))
    assert [span.ids for span in results[0]] == [span.ids for span in results[1]]
    assert [span.logprob for span in results[0]] == pytest.approx([span.logprob for span in results[1]], abs=1e-3)


def test_a_prompt_longer_than_a_step_is_read_in_pieces(engine: Engine, artifact: Path, spans: Spans, prompt: list[int]) -> None:
    longer = prompt * (600 // len(prompt))
    assert len(longer) > 512
    (span,) = search(engine, longer, spans, 1)
    assert span.logprob == pytest.approx(expected(artifact, longer, span.ids, {0}), abs=1e-3)


def test_a_passage_without_spans_has_no_best_one(engine: Engine, prompt: list[int]) -> None:
    assert search(engine, prompt, Spans.of(engine.tokenizer, " ", 6), 3) == []


def test_a_prompt_must_leave_room_for_the_longest_span(engine: Engine, spans: Spans) -> None:
    room = engine.limits.context_length - spans.trie.depth
    assert search(engine, [5] * room, spans, 1)
    with pytest.raises(PromptTooLong):
        search(engine, [5] * (room + 1), spans, 1)


def test_searches_run_beside_other_requests(engine: Engine, spans: Spans, prompt: list[int]) -> None:
    alone = search(engine, prompt, spans, 3)

    async def together() -> tuple[list[list[ScoredSpan]], int]:
        reader = engine.logprob_reader()
        searches = asyncio.gather(*(engine.best_spans(prompt, spans.trie, 3) for _ in range(4)))
        texts = asyncio.gather(*(collect(engine.stream("The", SamplingParams(20))) for _ in range(4)))
        logprobs = await reader.read(prompt)
        reader.close()
        await texts
        return await searches, len(logprobs)

    found, read = asyncio.run(together())
    assert read == len(prompt)
    for each in found:
        assert [span.ids for span in each] == [span.ids for span in alone]
        assert [span.logprob for span in each] == pytest.approx([span.logprob for span in alone], abs=1e-3)


def test_abandoned_searches_do_not_disturb_the_next_one(engine: Engine, spans: Spans, prompt: list[int]) -> None:
    alone = search(engine, prompt, spans, 1)

    async def abandon() -> list[ScoredSpan]:
        for seconds in (0, 0.01) * 10:
            searching = asyncio.ensure_future(engine.best_spans([5] * 700, spans.trie, 8))
            await asyncio.sleep(seconds)
            searching.cancel()
            await asyncio.wait([searching])
        return await engine.best_spans(prompt, spans.trie, 1)

    assert [span.ids for span in asyncio.run(abandon())] == [span.ids for span in alone]


def test_a_closed_engine_searches_no_more(artifact: Path, spans: Spans, prompt: list[int]) -> None:
    for name in ("openvino", "transformers"):
        engine = build(name, artifact)
        engine.close()
        with pytest.raises(EngineStopped):
            search(engine, prompt, spans, 1)


def steps_until(model: ScoringModel, replies: int) -> list[Reply]:
    """Take steps until the model has sent this number of replies."""
    received: list[Reply] = []
    while len(received) < replies:
        select.select([model.wakeup], [], [], 0 if not model.idle else HANG_SECONDS)
        if reply := model.step():
            received.append(reply)
    return received


def test_the_process_runs_one_search_at_a_time_and_keeps_nothing_of_it(artifact: Path, spans: Spans, prompt: list[int]) -> None:
    model = ScoringModel(artifact, 16)

    def add(id: int) -> None:
        model.add(id, SpanTask(FindSpans(id, prompt, spans.trie, 3, frozenset([0]))))

    for id in (1, 2, 3):
        add(id)
    read_logprobs(model, ReadLogprobs(4, prompt))
    (text,) = steps_until(model, 1)
    assert text.id == 4  # its turns are between those of the first search, which takes more of them
    assert [model._tasks[id].request is not None for id in (1, 2, 3, 4)] == [True, False, False, True]
    model.cancel(1)  # in the middle
    model.cancel(3)  # while it waits
    model.cancel(4)
    (second,) = steps_until(model, 1)
    add(5)
    (fifth,) = steps_until(model, 1)
    assert (second.id, fifth.id) == (2, 5)
    assert len(second.value) == 3
    assert second.value == fifth.value
    assert (model._tasks, list(model._queue), list(model._waiting)) == ({}, [], [])
    assert len(model._free) == 1  # the text's


@pytest.mark.parametrize("stopped", ["the search is cancelled", "the engine is closed"])
def test_the_reference_stops_searching_between_two_passes(artifact: Path, spans: Spans, prompt: list[int], stopped: str) -> None:
    model = LogprobModel(artifact, torch.device("cpu"))
    held = HeldForward(model._model)

    async def stop_in_the_first_pass() -> None:
        searching = asyncio.ensure_future(best_spans(model, prompt, spans.trie, 1, frozenset([0])))
        await held.wait_for_pass()
        if stopped == "the engine is closed":
            model.closed = True
        else:
            searching.cancel()
            await asyncio.wait([searching])
        held.go_on()
        with pytest.raises(EngineStopped if model.closed else asyncio.CancelledError):
            await searching

    asyncio.run(stop_in_the_first_pass())  # its end waits for the thread
    assert held.passes == 1
