"""The CPU engine: openvino-genai's continuous batching in a process of its own (`openvino_process.py`). This is the service's side."""

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
from models.engines import EngineStopped, IdLogprob
from models.engines.openvino_messages import (
    AddRequest,
    Cancel,
    Failure,
    LogprobsReply,
    OpenVINOConfig,
    ReadLogprobs,
    Ready,
    StepReport,
)
from models.engines.tokenization import IncrementalDetokenizer, ModelLimits, encode, load_tokenizer

logger = logging.getLogger("bentoml.trigen.engine")
ROOT = Path(__file__).resolve().parents[2]
EXIT_SECONDS = 30
"""How long to wait for the process to exit before killing it."""
FAILED = "the engine has failed; see the service's log"

Event = Token | Exception
"""The next item of a stream, or the exception that ends it."""


@dataclass(eq=False)
class _PendingRequest:
    """A request in progress, and where its events are delivered."""

    loop: asyncio.AbstractEventLoop
    prompt: Prompt
    params: SamplingParams
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    detokenizer: IncrementalDetokenizer | None = None
    """Set once the prompt has been tokenized."""


class OpenVINOEngine:
    """Runs the artifact of an LLM: the IR that `training/export/openvino_ir.py` writes, and its tokenizer.

    One thread receives from the process, detokenizes, and delivers tokens to the event loops that wait for them. Another thread
    tokenizes prompts and sends requests. So no event loop waits for a long prompt or a full pipe, and the process handles ids only.
    """

    def __init__(self, directory: Path, config: OpenVINOConfig = OpenVINOConfig()) -> None:
        """Start the process and wait until it has loaded the model. Raises EngineStopped if it cannot."""
        self.steps, self.running = 0, 0
        """Forward passes so far and requests in progress, as last reported by the process."""
        self._ids = itertools.count()
        """New ids of requests, and of texts whose log-probabilities are read. They never coincide, because `Cancel` takes either."""
        self._lock = threading.Lock()
        self._requests: dict[int, _PendingRequest] = {}
        self._reads: dict[int, asyncio.Future[list[IdLogprob]]] = {}
        self._stop_reason: str | None = None
        self._outbox: queue.SimpleQueue[tuple[int, _PendingRequest] | ReadLogprobs | Cancel | None] = queue.SimpleQueue()
        self.tokenizer, self.limits = load_tokenizer(directory), ModelLimits(directory)
        self._connection, process_end = multiprocessing.Pipe()
        command = [sys.executable, "-m", "models.engines.openvino_process", str(process_end.fileno())]
        with process_end:
            # A process group of its own: Ctrl-C must reach only the service, which drains its requests first.
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[process_end.fileno()], process_group=0)
        self._wait_until_ready(directory.resolve(), config)
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._receive_loop, self._send_loop)]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """See `Engine`."""
        return self._stop_reason is None

    async def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """See `Engine`."""
        id, request = next(self._ids), _PendingRequest(asyncio.get_running_loop(), prompt, params)
        with self._lock:  # a request registered after `_stop` would wait for ever
            if self._stop_reason:
                raise EngineStopped(self._stop_reason)
            self._requests[id] = request
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
            self._cancel(id)

    def logprob_reader(self) -> "OpenVINOLogprobReader":
        """See `Engine`."""
        return OpenVINOLogprobReader(self, next(self._ids))

    async def read_logprobs(self, id: int, ids: list[int]) -> list[IdLogprob]:
        """Read the next tokens of the text with this id; for `OpenVINOLogprobReader`."""
        reply: asyncio.Future[list[IdLogprob]] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._stop_reason:
                raise EngineStopped(self._stop_reason)
            self._reads[id] = reply
        self._outbox.put(ReadLogprobs(id, ids))
        return await reply

    def cancel_read(self, id: int) -> None:
        """Drop the text with this id; for `OpenVINOLogprobReader`."""
        with self._lock:
            self._reads.pop(id, None)
        self._outbox.put(Cancel(id))

    def close(self) -> None:
        """See `Engine`."""
        self._stop("the engine was closed")
        self._outbox.put(None)
        self._wait_for_exit()
        for thread in self._threads:
            thread.join()
        self._connection.close()

    def _wait_until_ready(self, directory: Path, config: OpenVINOConfig) -> None:
        try:
            self._connection.send((directory, config))
            reply = self._connection.recv()
        except (EOFError, OSError):
            reply = Failure(f"its process exited with status {self._wait_for_exit()}")
        if isinstance(reply, Ready):
            return
        self._wait_for_exit()
        self._connection.close()
        raise EngineStopped(f"the engine cannot start: {reply.message}")

    def _wait_for_exit(self) -> int:
        """Wait for the process to exit, kill it if it does not, and return its exit status."""
        try:
            return self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _send_loop(self) -> None:
        try:
            while (message := self._outbox.get()) is not None:
                if isinstance(message, tuple):
                    self._send_request(*message)
                else:
                    self._connection.send(message)
            self._connection.send(None)
        except OSError:
            pass  # the process has exited: `_receive_loop` fails the pending requests
        except Exception:  # without this thread every new request would wait for ever
            logger.exception("the engine has failed")
            self._stop(FAILED)

    def _send_request(self, id: int, request: _PendingRequest) -> None:
        try:
            ids = encode(self.tokenizer, request.prompt)
            self.limits.check(len(ids), request.params.length)
            request.detokenizer = IncrementalDetokenizer(self.tokenizer, ids, self.limits.eos)
        except Exception as error:  # `PromptTooLong`, or not valid Unicode: affects this request only
            self._deliver([(id, error)])
            return
        self._connection.send(AddRequest(id, ids, request.params, self.limits.eos))

    def _receive_loop(self) -> None:
        failure = "its process has exited"
        try:
            while not isinstance(message := self._connection.recv(), Failure):
                if isinstance(message, LogprobsReply):
                    self._deliver_logprobs(message)
                else:
                    self._deliver_report(message)
            failure = message.message
        except (EOFError, OSError):
            pass
        finally:  # without this thread every request would wait for ever
            closed = not self.alive
            self._stop(FAILED)
            self._outbox.put(None)
            if not closed:
                logger.error("the engine has failed: %s (exit status %s)", failure, self._wait_for_exit())

    def _deliver_logprobs(self, reply: LogprobsReply) -> None:
        with self._lock:
            future = self._reads.pop(reply.id, None)
        if future:
            _resolve(future, RuntimeError(reply.logprobs) if isinstance(reply.logprobs, str) else reply.logprobs)

    def _deliver_report(self, report: StepReport) -> None:
        self.steps, self.running = report.steps, report.running
        events: list[tuple[int, Event]] = [(id, RuntimeError(reason)) for id, reason in report.failures]
        for output in report.outputs:
            request = self._requests.get(output.id)
            if request and request.detokenizer:
                logprob = output.cumulative_logprob if request.params.cumulative_logprob else None
                events.append((output.id, request.detokenizer.token(output.ids, logprob, output.finish_reason)))
        self._deliver(events)

    def _deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        """Deliver events to requests by id, with one call to each event loop. The last token or an exception ends a request."""
        deliveries: dict[asyncio.AbstractEventLoop, list[tuple[int, _PendingRequest, Event]]] = defaultdict(list)
        with self._lock:
            for id, event in events:
                if request := self._requests.get(id):
                    deliveries[request.loop].append((id, request, event))
                    if isinstance(event, Exception) or event.finish_reason:
                        del self._requests[id]
        for loop, delivery in deliveries.items():
            try:
                loop.call_soon_threadsafe(_put_events, [(request.events, event) for _, request, event in delivery])
            except RuntimeError:  # the event loop is closed: nobody waits any more
                for id, _, _ in delivery:
                    self._cancel(id)

    def _cancel(self, id: int) -> None:
        """Cancel a request unless it has ended."""
        with self._lock:
            if self._requests.pop(id, None):
                self._outbox.put(Cancel(id))

    def _stop(self, reason: str) -> None:
        """Reject new requests and fail the pending ones."""
        with self._lock:
            self._stop_reason = self._stop_reason or reason
            failures = [(id, EngineStopped(self._stop_reason)) for id in self._requests]
            reads, self._reads = self._reads, {}
        self._deliver(failures)
        for future in reads.values():
            _resolve(future, EngineStopped(self._stop_reason))


class OpenVINOLogprobReader:
    """See `LogprobReader`."""

    def __init__(self, engine: OpenVINOEngine, id: int) -> None:
        self._engine, self._id = engine, id

    async def read(self, ids: Sequence[int]) -> list[IdLogprob]:
        """See `LogprobReader`."""
        return await self._engine.read_logprobs(self._id, list(ids)) if ids else []

    def close(self) -> None:
        """See `LogprobReader`."""
        self._engine.cancel_read(self._id)


def _resolve(future: "asyncio.Future[list[IdLogprob]]", outcome: list[IdLogprob] | Exception) -> None:
    """Set the future's result or exception from any thread."""

    def resolve() -> None:
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
        future.get_loop().call_soon_threadsafe(resolve)


def _put_events(deliveries: list[tuple[asyncio.Queue[Event], Event]]) -> None:
    for events, event in deliveries:
        events.put_nowait(event)
