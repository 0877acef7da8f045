"""The CPU engine: openvino-genai's continuous batching, in a process of its own (`openvino_process.py`); this is the service's end."""

import asyncio
import contextlib
import itertools
import logging
import multiprocessing
import queue
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.base import Prompt, SamplingParams, Token
from models.engines import EngineStopped, IdScore
from models.engines.openvino_messages import Add, Cancel, Failure, OpenVINOConfig, Read, Ready, Report, Scores
from models.engines.tokenization import IncrementalDetokenizer, ModelLimits, encode, load_tokenizer

logger = logging.getLogger("bentoml.trigen.engine")
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 30
"""How long the process may take to end."""


@dataclass(eq=False)
class _Waiting:
    loop: asyncio.AbstractEventLoop
    prompt: Prompt
    params: SamplingParams
    events: asyncio.Queue[Token | Exception] = field(default_factory=asyncio.Queue)
    text: IncrementalDetokenizer | None = None
    """From when the process knows of it."""


_Event = tuple[int, Token | Exception]
"""What a request gets."""


class OpenVINOEngine:
    """Runs the artifact of an LLM: the IR that `training/export.py` made, and its tokenizer.

    One thread listens to the process and hands tokens, as text, to the event loops that wait for them; another turns prompts into ids and
    sends them. No event loop waits for a long prompt or for a pipe that is full, and neither does the process, which deals in ids alone.
    """

    def __init__(self, directory: Path, config: OpenVINOConfig = OpenVINOConfig()) -> None:
        """Start the process and wait until the model is loaded. Raises EngineStopped where it cannot be."""
        self.steps, self.running = 0, 0
        """Forward passes so far, and requests under way, as the process last said."""
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._reading: dict[int, asyncio.Future[list[IdScore]]] = {}
        self._stopped: str | None = None
        self._outbox: queue.SimpleQueue[tuple[int, _Waiting] | Read | Cancel | None] = queue.SimpleQueue()
        self.tokenizer, self.limits = load_tokenizer(directory), ModelLimits(directory)
        self._connection, theirs = multiprocessing.Pipe()
        command = [sys.executable, "-m", "models.engines.openvino_process", str(theirs.fileno())]
        with theirs:  # a group of its own: Ctrl-C is for the service, which then answers what it has begun
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0)
        self._begin(directory.resolve(), config)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._send)]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """See `Engine`."""
        return self._stopped is None

    async def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """See `Engine`."""
        id, request = next(self._ids), _Waiting(asyncio.get_running_loop(), prompt, params)
        with self._lock:  # so that no request arrives after those that wait were failed
            if self._stopped:
                raise EngineStopped(self._stopped)
            self._waiting[id] = request
        self._outbox.put((id, request))
        try:
            while True:
                event = await request.events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if event.finish_reason:
                    return
        finally:
            self._forget(id)

    def scorer(self) -> "OpenVINOScorer":
        """See `Engine`."""
        return OpenVINOScorer(self, next(self._ids))

    async def read(self, id: int, ids: list[int]) -> list[IdScore]:
        """What `OpenVINOScorer.read` asks the process."""
        scores: asyncio.Future[list[IdScore]] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._stopped:
                raise EngineStopped(self._stopped)
            self._reading[id] = scores
        self._outbox.put(Read(id, ids))
        return await scores

    def forget(self, id: int) -> None:
        """What `OpenVINOScorer.close` asks the process."""
        with self._lock:
            self._reading.pop(id, None)
        self._outbox.put(Cancel(id))

    def close(self) -> None:
        """See `Engine`."""
        self._stop("the engine was closed")
        self._outbox.put(None)
        self._end()
        for thread in self._threads:
            thread.join()
        self._connection.close()

    def _begin(self, directory: Path, config: OpenVINOConfig) -> None:
        try:
            self._connection.send((directory, config))
            first = self._connection.recv()
        except (EOFError, OSError):
            first = Failure(f"its process ended with {self._end()}")
        if isinstance(first, Ready):
            return
        self._end()
        self._connection.close()
        raise EngineStopped(f"the engine cannot start: {first.message}")

    def _end(self) -> int:
        """Wait for the process, but not for ever; its exit status."""
        try:
            return self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _send(self) -> None:
        try:
            while (message := self._outbox.get()) is not None:
                if isinstance(message, tuple):
                    self._add(*message)
                else:
                    self._connection.send(message)
            self._connection.send(None)
        except OSError:
            pass  # the process has ended: `_listen` tells those who wait
        except Exception:  # whatever it was: nobody must wait for a thread that has ended
            logger.exception("the engine has failed")
            self._stop("the engine has failed; the service's log says why")

    def _add(self, id: int, request: _Waiting) -> None:
        try:
            ids = encode(self.tokenizer, request.prompt)
            self.limits.check(len(ids), request.params.length)
            request.text = IncrementalDetokenizer(self.tokenizer, ids, self.limits.eos)
        except Exception as error:  # `PromptTooLong`, or a text that is none: no other request is concerned
            self._deliver([(id, error)])
            return
        self._connection.send(Add(id, ids, request.params, self.limits.eos))

    def _listen(self) -> None:
        failure = "its process has ended"
        try:
            while not isinstance(message := self._connection.recv(), Failure):
                if isinstance(message, Scores):
                    self._scored(message)
                else:
                    self._report(message)
            failure = message.message
        except (EOFError, OSError):
            pass
        finally:  # whatever it was: nobody must wait for a thread that has ended
            closed = self._stopped
            self._stop("the engine has failed; the service's log says why")
            self._outbox.put(None)
            if not closed:
                logger.error("the engine has failed: %s (exit status %s)", failure, self._end())

    def _scored(self, message: Scores) -> None:
        with self._lock:
            scores = self._reading.pop(message.id, None)
        if scores:
            _settle(scores, RuntimeError(message.scores) if isinstance(message.scores, str) else message.scores)

    def _report(self, report: Report) -> None:
        self.steps, self.running = report.steps, report.running
        events: list[_Event] = [(id, RuntimeError(failure)) for id, failure in report.failures]
        for id, ids, logprob, reason in report.generated:
            request = self._waiting.get(id)
            if request and request.text:
                events.append((id, request.text.token(ids, logprob if request.params.logprobs else None, reason)))
        self._deliver(events)

    def _deliver(self, events: Sequence[_Event]) -> None:
        """Hand events to those who wait: once for each event loop. The last token ends a request, and so does an exception."""
        deliveries: dict[asyncio.AbstractEventLoop, list[tuple[int, _Waiting, Token | Exception]]] = defaultdict(list)
        with self._lock:
            for id, event in events:
                if request := self._waiting.get(id):
                    deliveries[request.loop].append((id, request, event))
                    if isinstance(event, Exception) or event.finish_reason:
                        del self._waiting[id]
        for loop, delivery in deliveries.items():
            try:
                loop.call_soon_threadsafe(_put, [(request.events, event) for _, request, event in delivery])
            except RuntimeError:  # the event loop is closed: nobody waits any more
                for id, _, _ in delivery:
                    self._forget(id)

    def _forget(self, id: int) -> None:
        """Cancel a request, unless it has ended."""
        with self._lock:
            if self._waiting.pop(id, None):
                self._outbox.put(Cancel(id))

    def _stop(self, reason: str) -> None:
        """Refuse requests from now on, and fail those that wait."""
        with self._lock:
            self._stopped = self._stopped or reason
            failed = [(id, EngineStopped(self._stopped)) for id in self._waiting]
            reading, self._reading = self._reading, {}
        self._deliver(failed)
        for scores in reading.values():
            _settle(scores, EngineStopped(self._stopped))


class OpenVINOScorer:
    """See `Scorer`."""

    def __init__(self, engine: OpenVINOEngine, id: int) -> None:
        self._engine, self._id = engine, id

    async def read(self, ids: Sequence[int]) -> list[IdScore]:
        """See `Scorer`."""
        return await self._engine.read(self._id, list(ids)) if ids else []

    def close(self) -> None:
        """See `Scorer`."""
        self._engine.forget(self._id)


def _settle(waiting: "asyncio.Future[list[IdScore]]", outcome: list[IdScore] | Exception) -> None:
    """Give what was waited for to its event loop, from any thread."""

    def settle() -> None:
        if waiting.done():
            return
        if isinstance(outcome, Exception):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
        waiting.get_loop().call_soon_threadsafe(settle)


def _put(deliveries: list[tuple[asyncio.Queue[Token | Exception], Token | Exception]]) -> None:
    for events, event in deliveries:
        events.put_nowait(event)
