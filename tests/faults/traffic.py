"""Clients that call a server without pause while a test injects a fault, and what they lose."""

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from tests.client import read_event
from tests.conftest import HANG_SECONDS, Server, wait_until

PAUSE_SECONDS = 0.02
"""The time between two requests of a client. Without it, the clients would take the processor from the service."""
Outcome = Literal["answered", "refused", "broken", "wrong"]
"""Answered: with the expected text. Refused: with an error status, or a stream that says that it has failed. Broken: the connection broke,
or the stream ended without its last event. Wrong: with another text, which fails the test."""


@dataclass(frozen=True)
class Call:
    """A request that is repeated, always with the same seed."""

    name: str
    route: str
    length: int
    streamed: bool = False


CALLS = [
    Call("bigram", "/generate_text", 20),
    Call("rnn", "/generate_with_rnn", 20),
    Call("rnn, streamed", "/generate_with_rnn", 100, streamed=True),
    Call("llm", "/generate_with_llm", 20),
    Call("llm", "/generate_with_llm", 40),
    Call("llm, streamed", "/generate_with_llm", 200, streamed=True),
    Call("llm, streamed", "/generate_with_llm", 200, streamed=True),
]
WHOLE = [call for call in CALLS if not call.streamed]


@dataclass(frozen=True)
class Result:
    """One request of a client."""

    name: str
    start: float
    end: float
    outcome: Outcome
    detail: str = ""


@dataclass
class Traffic:
    """The results so far. Each client repeats its call, on a new connection each time."""

    server: Server
    results: list[Result] = field(default_factory=list)
    fault: float = 0.0
    """When the fault was injected, on the clock of `time.monotonic`."""
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, calls: Sequence[Call]) -> None:
        """Start the clients and wait until each has had an answer, which its later ones must equal."""
        self._threads = [threading.Thread(target=self._run, args=[call], daemon=True) for call in calls]
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self.since(0)) == len({call.name for call in calls}), "every client gets an answer")

    def mark_fault(self) -> None:
        """Take note that the fault happens now."""
        self.fault = time.monotonic()

    def wait_for_answers(self) -> None:
        """Wait until every client has begun another request from now on, and has had its answer."""
        names, now = {result.name for result in self.results}, time.monotonic()
        wait_until(lambda: self.since(now) == names, f"every client gets an answer again; the last results: {self.results[-10:]}")

    def stop(self) -> None:
        """Let the requests in progress end, and begin no more."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(HANG_SECONDS)
            assert not thread.is_alive(), "a request hangs"
        assert [result for result in self.results if result.outcome == "wrong"] == []

    def since(self, moment: float) -> set[str]:
        """The calls that were begun after `moment` and answered."""
        return {result.name for result in self.results if result.start > moment and result.outcome == "answered"}

    def lost(self, name: str = "") -> list[Result]:
        """The requests that were not answered, of the calls whose name begins with `name`."""
        return [result for result in self.results if result.name.startswith(name) and result.outcome != "answered"]

    def gaps(self) -> dict[str, float]:
        """For each model, the longest time without an answer from the fault on, in seconds."""
        moments: dict[str, list[float]] = defaultdict(lambda: [self.fault])
        for result in sorted(self.results, key=lambda result: result.end):
            if result.end > self.fault and result.outcome == "answered":
                moments[result.name.partition(",")[0]].append(result.end)
        return {model: max(b - a for a, b in itertools.pairwise(ends)) for model, ends in moments.items()}

    def _run(self, call: Call) -> None:
        expected = None
        with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=HANG_SECONDS) as client:
            while not self._stopped.is_set():
                start, detail = time.monotonic(), ""
                try:
                    text = _send(client, self.server, call)
                    expected = expected or text
                    outcome: Outcome = "answered" if text == expected else "wrong"
                    detail = "" if text == expected else f"{text!r} instead of {expected!r}"
                except _Refused as error:
                    outcome, detail = "refused", str(error)
                except httpx.TransportError as error:
                    outcome, detail = "broken", repr(error)
                self.results.append(Result(call.name, start, time.monotonic(), outcome, detail))
                self._stopped.wait(PAUSE_SECONDS)


class _Refused(Exception):
    """The service has answered with an error."""


def _send(client: httpx.Client, server: Server, call: Call) -> str:
    body = {"start_word": "The", "length": call.length, "seed": 7, "stream": call.streamed}
    with client.stream("POST", f"{server.url}{call.route}", json=body) as response:
        if response.status_code != 200:
            response.read()
            raise _Refused(f"{response.status_code}: {response.json()['detail']}")
        if not call.streamed:
            response.read()
            whole: dict[str, Any] = response.json()
            return str(whole["generated_text"])
        events = [read_event(line) for line in response.iter_lines() if line.startswith("data: ")]
    last = events[-1] if events else {}
    if last.get("finish_reason") in ("error", "cancelled"):
        raise _Refused(f"{last['finish_reason']}: {last['problem']['detail'] if last.get('problem') else ''}")
    if not last.get("finish_reason"):
        raise httpx.ReadError("the stream ended without its last event")
    return "".join(event["text"] for event in events)


@contextmanager
def traffic(server: Server, calls: Sequence[Call] = CALLS) -> Iterator[Traffic]:
    """Call the server without pause within this context."""
    running = Traffic(server)
    running.begin(calls)
    try:
        yield running
    finally:
        running.stop()
