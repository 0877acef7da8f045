"""The LSTM's batch and its process."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models.base import SamplingParams, Token, join
from models.engines import EngineStopped, Supervision
from models.engines.lstm import LSTMEngine
from models.engines.lstm_process import SCORED_TEXTS, LSTMBatch
from models.engines.supervision.messages import AddRequest, Cancel, TextOutput
from training.word_models.fitting import fit_lstm
from training.word_models.lstm import LSTMConfig

WORDS = ["the", "red", "cat", "sat", "on", "a", "mat", "and", "one", "blue", "dog", "ran", "to", "some", "big", "ox"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lstm")
    texts = [" ".join(WORDS[(start + step * place) % len(WORDS)] for place in range(12)) for start in range(8) for step in range(1, 9)]
    fit_lstm(texts, directory, config=LSTMConfig(width=32), epochs=1, seconds=None, seed=0)
    return directory


@pytest.fixture
def batch(artifact: Path) -> LSTMBatch:
    return LSTMBatch.load(artifact)


@pytest.fixture(scope="module")
def engine(artifact: Path) -> Iterator[LSTMEngine]:
    with closing(LSTMEngine(artifact)) as engine:
        yield engine


def step(batch: LSTMBatch) -> list[TextOutput]:
    return [output for report in batch.step() for output in report.outputs if isinstance(output, TextOutput)]


def run(batch: LSTMBatch) -> dict[int, Token]:
    """Step until every text has ended. Returns each text in one token."""
    outputs: dict[int, list[Token]] = {}
    while not batch.idle:
        for id, token in step(batch):
            outputs.setdefault(id, []).append(token)
    return {id: join(tokens) for id, tokens in outputs.items()}


def request(number: int) -> AddRequest:
    """Return one of many different requests; the first ones begin at once, others with prompts of up to 15 words."""
    options: list[dict[str, Any]] = [{}, {"top_k": 3}, {"top_p": 1.0}, {"temperature": 0.0}, {"top_p": 0.3}, {"logprobs": 2}]
    params = {"temperature": 1.5, "seed": number, "cumulative_logprob": True} | options[number % len(options)]
    return AddRequest(number, " ".join(WORDS[: number % 16]), SamplingParams(8 + number % 5, **params))


def test_a_text_is_the_same_alone_and_in_every_place_among_64(batch: LSTMBatch) -> None:
    alone: dict[int, Token] = {}
    for number in range(64):
        batch.handle(request(number))
        alone |= run(batch)
    assert len({token.text for token in alone.values()}) > 40
    for shift in (0, 1, 13):  # each text stands in another place, and in each step other texts begin and end
        for number in range(64):
            batch.handle(request((number + shift) % 64))
        assert run(batch) == alone


def test_a_text_is_the_same_while_others_come_and_go(batch: LSTMBatch) -> None:
    batch.handle(request(20))
    alone = run(batch)[20]
    batch.handle(request(20))
    tokens = []
    for number in range(22, 62):
        batch.handle(request(number))
        if number % 2:
            batch.handle(Cancel(number - 1))
        tokens += [token for id, token in step(batch) if id == 20]
    assert join(tokens) == alone


def test_each_step_reads_one_word_of_each_text(batch: LSTMBatch) -> None:
    batch.handle(AddRequest(0, "", SamplingParams(3)))
    batch.handle(AddRequest(1, "the red", SamplingParams(1)))
    assert [[id for id, _ in step(batch)] for _ in range(3)] == [[0], [0], [0, 1]]
    assert batch.idle


def test_scored_texts_take_turns_and_do_not_hold_up_the_others(batch: LSTMBatch) -> None:
    scored = 2 * SCORED_TEXTS + 1
    for number in range(scored):
        batch.handle(AddRequest(number, "the", SamplingParams(0)))  # two steps: the boundary and the word
    batch.handle(AddRequest(scored, "", SamplingParams(3)))
    ended = [[id for id, token in step(batch) if token.finish_reason] for _ in range(3)]
    # In turn: the first four, the next four, then the last one and the first three, which are done.
    assert ended == [[], [], [0, 1, 2, scored]]
    finished = run(batch)
    assert sorted(finished) == list(range(3, scored))
    assert {len(token.logprobs) for token in finished.values()} == {1}


def test_a_cancelled_text_takes_no_more_steps(batch: LSTMBatch) -> None:
    for number, params in enumerate((SamplingParams(100), SamplingParams(100, logprobs=1))):
        batch.handle(AddRequest(number, "the", params))
        step(batch)
        batch.handle(Cancel(number))
        batch.handle(Cancel(number))  # has no effect
        assert batch.idle
        assert step(batch) == []


async def collect(stream: AsyncGenerator[Token]) -> list[Token]:
    return [token async for token in stream]


def test_words_are_flushed_together_unless_stop_strings_need_each_word(engine: LSTMEngine) -> None:
    def generate(**params: Any) -> list[Token]:
        options = SamplingParams(200, seed=3, cumulative_logprob=True, logprobs=1, **params)
        return asyncio.run(collect(engine.stream("the", options)))

    each = generate()
    assert [token.count for token in each] == [1] * 200
    some = generate(flush_interval=3600)  # longer than any machine takes
    assert (some[0], len(some) < len(each)) == (each[0], True)
    whole = generate(final_only=True)
    assert whole == generate(final_only=True, stop=("no such text",))
    for pieces in (some, whole):
        joined, expected = join(pieces), join(each)
        assert joined.cumulative_logprob == pytest.approx(expected.cumulative_logprob)
        assert (joined.text, joined.logprobs, joined.count) == (expected.text, expected.logprobs, expected.count)
    assert len(whole) == 1
    assert each[-1].finish_reason == "length"


def test_a_text_that_had_not_begun_survives_its_process(artifact: Path) -> None:
    whole = SamplingParams(30, seed=1, final_only=True)
    with closing(LSTMEngine(artifact, Supervision(hang_seconds=1))) as engine:
        expected = asyncio.run(collect(engine.stream("the", whole)))

        async def kill_while_two_run() -> None:
            begun = engine.stream("the", SamplingParams(1_000_000_000, flush_interval=0.01))
            await anext(begun)
            assert engine.process_id
            os.kill(engine.process_id, signal.SIGSTOP)
            waiting = asyncio.ensure_future(collect(engine.stream("the", whole)))
            await asyncio.sleep(0)
            with pytest.raises(EngineStopped, match="is being replaced"):
                await collect(begun)
            assert await waiting == expected

        asyncio.run(kill_while_two_run())
        assert engine.restarts == 1


def test_an_artifact_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineStopped, match=r"the engine cannot start: .*spelling.npz"):
        LSTMEngine(tmp_path)
