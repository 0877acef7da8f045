"""Engines whose process dies, hangs or cannot start again."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from models.base import SamplingParams, Token
from models.engines import EngineStopped, IdLogprob, ScoredSpan, Supervision
from models.engines.openvino import EXACT, OpenVINOEngine
from models.spans import Spans
from tests.conftest import wait_until
from tests.models.engines.conftest import build_paced, collect, text_of
from tests.models.engines.pace import Pace

GREEDY = SamplingParams(20, temperature=0)
WHOLE = SamplingParams(20, temperature=0, final_only=True)
IMPATIENT = Supervision(hang_seconds=1)


@pytest.fixture
def paced(artifact: Path, tmp_path: Path) -> Iterator[tuple[OpenVINOEngine, Pace]]:
    """An engine whose first process takes its steps when the test allows them; later ones run freely."""
    built = build_paced("openvino", artifact, tmp_path)
    assert isinstance(built.engine, OpenVINOEngine)
    with closing(built.engine):
        yield built.engine, built.pace


def kill(engine: OpenVINOEngine, number: int = signal.SIGKILL) -> None:
    assert engine.process_id
    os.kill(engine.process_id, number)


@contextmanager
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, *messages: str) -> Iterator[None]:
    """Check that the messages are logged within this context."""
    monkeypatch.setattr(logging.getLogger("bentoml"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        yield
    for message in messages:
        assert message in caplog.text


def test_a_dead_process_is_replaced_and_only_texts_that_had_begun_are_lost(
    paced: tuple[OpenVINOEngine, Pace], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, pace = paced
    expected = asyncio.run(collect(engine.stream("The", GREEDY)))

    async def kill_while_three_run() -> tuple[list[BaseException | list[Token]], list[Token]]:
        begun = [engine.stream("The", SamplingParams(700)) for _ in range(2)]
        whole = asyncio.ensure_future(collect(engine.stream("The", WHOLE)))
        await pace.step_until(asyncio.gather(*(anext(stream) for stream in begun)))
        kill(engine)
        results = await asyncio.gather(*(collect(stream) for stream in begun), whole, return_exceptions=True)
        return results, await collect(engine.stream("The", GREEDY))

    pace.hold()
    with logged(caplog, monkeypatch, "its process has exited (exit status -9)", "runs in a new process"):
        (*lost, whole), after = asyncio.run(kill_while_three_run())
    assert [str(error) for error in lost] == ["the engine has failed and is being replaced"] * 2
    assert all(isinstance(error, EngineStopped) for error in lost)
    assert isinstance(whole, list)
    assert text_of(whole) == text_of(after) == text_of(expected)
    assert (engine.alive, engine.ready, engine.restarts, engine.running) == (True, True, 1, 0)


def test_a_hung_process_is_replaced(artifact: Path) -> None:
    with closing(OpenVINOEngine(artifact, EXACT, IMPATIENT)) as engine:
        expected = asyncio.run(collect(engine.stream("The", GREEDY)))
        kill(engine, signal.SIGSTOP)
        assert asyncio.run(collect(engine.stream("The", GREEDY))) == expected
        assert engine.restarts == 1


def test_an_idle_process_that_hangs_is_replaced(artifact: Path) -> None:
    with closing(OpenVINOEngine(artifact, EXACT, IMPATIENT)) as engine:
        kill(engine, signal.SIGSTOP)
        wait_until(lambda: not engine.ready, "the engine notices that its process hangs")
        wait_until(lambda: engine.ready, "the process is replaced")
        assert asyncio.run(collect(engine.stream("The", WHOLE)))


def test_a_request_that_kills_its_process_is_tried_only_once_more(artifact: Path) -> None:
    with closing(OpenVINOEngine(artifact, EXACT)) as engine:

        async def kill_twice() -> None:
            for restarts in (0, 1):
                while engine.restarts < restarts or not engine.ready:
                    await asyncio.sleep(0.01)
                kill(engine, signal.SIGSTOP)  # so that the request does not end first
                if not restarts:
                    request = asyncio.ensure_future(collect(engine.stream("The", WHOLE)))
                    await asyncio.sleep(0)
                kill(engine)
            with pytest.raises(EngineStopped, match="the engine has failed and is being replaced"):
                await request

        pace_of_new_processes = slow_start(engine)
        asyncio.run(kill_twice())
        pace_of_new_processes()


def slow_start(engine: OpenVINOEngine) -> Callable[[], None]:
    """Stop each new process of the engine as soon as it is ready, so that it does not finish the request that it is given."""
    start = engine._start

    def stopped() -> object:
        process = start()
        os.kill(process.pid, signal.SIGSTOP)
        return process

    engine._start = stopped  # type: ignore[method-assign, assignment]

    def restore() -> None:
        engine._start = start  # type: ignore[method-assign]

    return restore


def test_an_engine_gives_up_after_five_failures_in_a_row(
    artifact: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = threading.Event()
    supervision = Supervision(backoff_seconds=0.001, give_up=given_up.set)
    with closing(OpenVINOEngine(artifact, EXACT, supervision)) as engine:
        engine._module = "no_such_module"
        with logged(caplog, monkeypatch, "has failed 5 times in a row"):
            kill(engine)
            with pytest.raises(EngineStopped, match="the engine has failed; see the service's log"):
                asyncio.run(collect(engine.stream("The", GREEDY)))
            wait_until(given_up.is_set, "the engine gives up")
        assert (engine.alive, engine.ready) == (False, False)
        assert caplog.text.count("cannot start") == 4
        with pytest.raises(EngineStopped):
            asyncio.run(collect(engine.stream("The", GREEDY)))


def test_an_engine_whose_new_process_hangs_while_it_loads_can_be_closed(artifact: Path, tmp_path: Path) -> None:
    pid_file, program = tmp_path / "pid", tmp_path / "silent_process.py"
    program.write_text(f"import os, pathlib, signal\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\nsignal.pause()\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        engine = OpenVINOEngine(artifact, EXACT)
        engine._module = "silent_process"
        kill(engine)
        wait_until(lambda: pid_file.exists() and pid_file.read_text() != "", "the replacement is started")
    engine.close()
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_logprobs_that_a_dead_process_was_reading_are_read_by_the_next_one(artifact: Path) -> None:
    ids = list(range(5, 300))

    async def read(engine: OpenVINOEngine, *, interrupt: bool) -> list[IdLogprob]:
        reader = engine.logprob_reader()
        first = await reader.read(ids[:100])
        if interrupt:
            kill(engine)
        rest = await reader.read(ids[100:])
        reader.close()
        return [*first, *rest]

    with closing(OpenVINOEngine(artifact, EXACT)) as engine:
        expected = asyncio.run(read(engine, interrupt=False))
        actual = asyncio.run(read(engine, interrupt=True))
        assert engine.restarts == 1
    assert [logprob for logprob, _ in actual[1:]] == pytest.approx([logprob for logprob, _ in expected[1:]], abs=1e-4)


def test_a_search_that_a_dead_process_was_running_starts_again_once(artifact: Path) -> None:
    async def best(engine: OpenVINOEngine, kills: int) -> list[ScoredSpan]:
        spans = Spans.of(engine.tokenizer, "The light of the sea.", 8)
        if kills:
            kill(engine, signal.SIGSTOP)  # so that the search does not end first
        searching = asyncio.ensure_future(engine.best_spans([5] * 300, spans.trie, 3))
        await asyncio.sleep(0)
        before = engine.restarts
        for restarts in range(before, before + kills):
            while engine.restarts < restarts or not engine.ready:
                await asyncio.sleep(0.01)
            kill(engine)
        return await searching

    with closing(OpenVINOEngine(artifact, EXACT)) as engine:
        expected = asyncio.run(best(engine, 0))
        actual = asyncio.run(best(engine, 1))
        assert engine.restarts == 1
        assert [span.ids for span in actual] == [span.ids for span in expected]
        assert [span.logprob for span in actual] == pytest.approx([span.logprob for span in expected], abs=1e-4)
        restore = slow_start(engine)
        with pytest.raises(EngineStopped, match="the engine has failed and is being replaced"):
            asyncio.run(best(engine, 2))
        restore()
