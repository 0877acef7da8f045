"""The service's side of an engine that runs in a process of its own (`loop.py`): requests, heartbeat and replacement.

A process that has died, or that answers no heartbeat, is replaced in place. Requests of which nothing has been delivered are sent to the
new process, once; the others fail. After `Supervision.max_failures` failures in a row, the engine gives up.
"""

import asyncio
import itertools
import logging
import select
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from models.base import Prompt, SamplingParams, Token
from models.engines import EngineBusy, EngineStopped, Supervision
from models.engines.supervision.child import ChildProcess
from models.engines.supervision.messages import (
    AddRequest,
    Cancel,
    Failure,
    Message,
    Output,
    Ping,
    Pong,
    Reply,
    StepReport,
    TextOutput,
)
from models.engines.supervision.requests import Call, Event, Request, put_events, resolve

logger = logging.getLogger("bentoml.trigen.engine")
HEALTHY_SECONDS = 60
"""After this long without a failure, an idle process counts as healthy."""


class SupervisedEngine(ABC):
    """A client of `loop.py`. Its threads encode prompts and spell tokens, so no event loop waits for that or for a full pipe."""

    def __init__(self, name: str, module: str, start_message: Any, supervision: Supervision) -> None:
        """Start the process and wait until it has loaded the model. Raises EngineStopped if it cannot."""
        self.steps, self.running, self.cache_usage = 0, 0, 0.0
        """Forward passes so far, requests in progress and the share of the key-value cache in use, as last reported by the process."""
        self.restarts = 0
        """How often the process has been replaced."""
        self._name, self._module, self._start_message, self._supervision = name, module, start_message, supervision
        self._ids = itertools.count()
        """New ids of requests, scored texts and searches for spans. They never coincide, because `Cancel` takes any of them."""
        self._lock = threading.Lock()
        self._requests: dict[int, Request] = {}
        self._calls: dict[int, Call] = {}
        self._stop_reason: str | None = None
        self._failures = 0
        """Failures of the process since it last delivered something."""
        self._closing = threading.Event()
        try:
            self._process: ChildProcess | None = self._start()
        except EngineStopped as error:
            raise EngineStopped(f"the engine cannot start: {error}") from None
        self._supervisor = threading.Thread(target=self._supervise, args=[self._process], daemon=True)
        self._supervisor.start()

    @abstractmethod
    def _message(self, id: int, request: Request) -> AddRequest:
        """Return the message that starts a request, in the sending thread. An exception fails this request only."""

    @abstractmethod
    def _token(self, request: Request, output: Output | TextOutput) -> Token:
        """Return the token of an output, in the receiving thread."""

    @property
    def alive(self) -> bool:
        """See `Engine`."""
        return self._stop_reason is None

    @property
    def ready(self) -> bool:
        """See `Engine`."""
        return self.alive and self._process is not None

    @property
    def process_id(self) -> int | None:
        """The id of the process; None while it is being replaced."""
        process = self._process
        return process.pid if process else None

    async def stream(self, prompt: Prompt, params: SamplingParams, before: Sequence[int] = ()) -> AsyncGenerator[Token]:
        """See `Engine`. While the process is being replaced, the request waits for the new one."""
        request = Request(id := next(self._ids), asyncio.get_running_loop(), prompt, params, before)
        self._submit(self._requests, id, request)
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

    async def _call(self, id: int, message: Message) -> Any:
        """Send a message and return the value of its `Reply`. Raises EngineStopped, also if the process is replaced meanwhile."""
        call = Call(message, asyncio.get_running_loop().create_future())
        self._submit(self._calls, id, call)
        try:
            return await call.future
        finally:
            with self._lock:
                self._calls.pop(id, None)

    def close(self) -> None:
        """See `Engine`."""
        self._stop("the engine was closed")
        self._closing.set()
        if process := self._process:
            process.outbox.put(None)
        self._supervisor.join()

    def _submit(self, pending: "dict[int, Any]", id: int, item: Request | Call) -> None:
        with self._lock:  # an item registered after `_stop` would wait for ever
            if self._stop_reason:
                raise EngineStopped(self._stop_reason)
            pending[id] = item
            if self._process:
                self._process.outbox.put((id, item))

    def _cancel(self, id: int) -> None:
        """Cancel a request unless it has ended."""
        with self._lock:
            if self._requests.pop(id, None):
                self._post(Cancel(id))

    def _post(self, message: Message) -> None:
        """Send a message that no process needs but the current one."""
        if process := self._process:
            process.outbox.put(message)

    def _send(self, process: ChildProcess, item: tuple[int, Request | Call] | Message) -> None:
        """Send one item of the outbox, in the sending thread."""
        if not isinstance(item, tuple):
            process.connection.send(item)
            return
        id, pending = item
        if isinstance(pending, Call):
            process.connection.send(pending.message)
            return
        if id not in self._requests:
            return  # cancelled before it was sent
        try:
            message = self._message(id, pending)
        except Exception as error:  # `PromptTooLong`, `UnknownIds`, or not valid Unicode
            self._deliver([(id, error)])
            return
        process.connection.send(message)

    def _start(self) -> ChildProcess:
        return ChildProcess(self._module, self._start_message, self._send, self._closing)

    def _supervise(self, process: ChildProcess | None) -> None:
        """Receive from the process until the engine is closed; replace the process when it fails."""
        while process is not None:
            failure = self._receive(process)
            with self._lock:
                self._process = None
            status = process.end()
            if self._closing.is_set():
                return
            logger.error("%s has failed: %s (exit status %s)", self._name, failure, status)
            self._fail_begun_requests()
            process = self._replace()

    def _replace(self) -> ChildProcess | None:
        """Start a new process and send it the waiting requests. Returns None once the engine gives up or is closed."""
        while True:
            self._failures += 1
            if self._failures >= self._supervision.max_failures:
                logger.critical("%s has failed %d times in a row", self._name, self._failures)
                self._stop("the engine has failed; see the service's log")
                self._supervision.give_up()
                return None
            # The first replacement starts at once; each further one waits twice as long as the one before.
            delay = self._supervision.backoff_seconds * (2 ** (self._failures - 1) - 1)
            if self._closing.wait(delay):
                return None
            try:
                process = self._start()
            except EngineStopped as error:
                if self._closing.is_set():
                    return None
                logger.error("%s cannot start: %s", self._name, error)
                continue
            with self._lock:
                self._process, self.restarts = process, self.restarts + 1
                self.running, self.cache_usage = 0, 0.0
                for pending in (*self._requests.items(), *self._calls.items()):
                    process.outbox.put(pending)
            if self._closing.is_set():  # `close` may have missed the new process
                process.outbox.put(None)
            logger.warning("%s runs in a new process", self._name)
            return process

    def _receive(self, process: ChildProcess) -> str:
        """Deliver what the process sends until it fails. Returns the reason.

        The process is hung if it stays silent for `hang_seconds` although it has been pinged. Silent intervals are counted, and not
        the time, so that a service that was suspended together with the process does not take it for hung.
        """
        incoming = select.poll()
        incoming.register(process.connection, select.POLLIN)
        interval = min(1.0, self._supervision.hang_seconds / 4)
        silent = answered = 0
        try:
            while True:
                if not incoming.poll(1000 * interval):
                    silent += 1
                    if silent * interval > self._supervision.hang_seconds:
                        process.kill()
                        return f"its process has not answered for {self._supervision.hang_seconds:g} s"
                    if silent == 1:
                        process.outbox.put(Ping())
                    continue
                silent = 0
                message = process.connection.recv()
                if isinstance(message, Failure):
                    return message.message
                if isinstance(message, Reply):
                    self._deliver_reply(message)
                elif isinstance(message, Pong):
                    answered += 1
                    if answered * interval > HEALTHY_SECONDS:
                        self._failures = 0
                else:
                    self._deliver_report(message)
        except (EOFError, OSError):
            return "its process has exited"
        except Exception:
            logger.exception("a message of the engine's process could not be delivered")
            process.kill()
            return "its process sent a wrong message"

    def _deliver_reply(self, reply: Reply) -> None:
        self._failures = 0
        with self._lock:
            call = self._calls.pop(reply.id, None)
        if call:
            resolve(call, reply.value if reply.error is None else _exception(reply.error, busy=reply.busy))

    def _deliver_report(self, report: StepReport) -> None:
        self.steps, self.running, self.cache_usage = report.steps, report.running, report.cache_usage
        events: list[tuple[int, Event]] = [(failure.id, _exception(failure.reason, busy=failure.busy)) for failure in report.failures]
        for output in report.outputs:
            self._failures = 0
            if (request := self._requests.get(output.id)) and (token := request.collect(self._token(request, output))):
                events.append((output.id, token))
                if token.finish_reason and not _ended_by_process(output):  # a stop string
                    self._post(Cancel(output.id))
        self._deliver(events)

    def _deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        """Deliver events to requests by id, with one call to each event loop. The last token or an exception ends a request."""
        deliveries: list[tuple[Request, Event]] = []
        with self._lock:
            for id, event in events:
                if request := self._requests.get(id):
                    request.delivered = True
                    deliveries.append((request, event))
                    if isinstance(event, Exception) or event.finish_reason:
                        del self._requests[id]
        for request in put_events(deliveries):
            self._cancel(request.id)

    def _fail_begun_requests(self) -> None:
        """Fail the calls, and the requests whose beginning has been delivered or that have started again already."""
        with self._lock:
            lost = [id for id, request in self._requests.items() if not request.start_again()]
            calls, self._calls = self._calls, {}
        error = EngineStopped("the engine has failed and is being replaced")
        self._deliver([(id, error) for id in lost])
        for call in calls.values():
            resolve(call, error)

    def _stop(self, reason: str) -> None:
        """Reject new requests and fail the pending ones."""
        with self._lock:
            self._stop_reason = self._stop_reason or reason
            pending = list(self._requests)
            calls, self._calls = self._calls, {}
        self._deliver([(id, EngineStopped(self._stop_reason)) for id in pending])
        for call in calls.values():
            resolve(call, EngineStopped(self._stop_reason))


def _ended_by_process(output: Output | TextOutput) -> bool:
    """Return whether the process has ended the text with this output."""
    return bool(output.finish_reason if isinstance(output, Output) else output.token.finish_reason)


def _exception(reason: str, *, busy: bool) -> Exception:
    return EngineBusy(reason) if busy else RuntimeError(reason)
