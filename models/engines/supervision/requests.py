"""Requests in progress, and how events reach the event loops that wait for them. Any thread may call these."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from models.base import Prompt, SamplingParams, Token, first_stop, join
from models.engines.supervision.messages import Message

Event = Token | Exception
"""The next item of a stream, or the exception that ends it."""


@dataclass(eq=False)
class Request:
    """A request in progress, and where its events are delivered."""

    id: int
    loop: asyncio.AbstractEventLoop
    prompt: Prompt
    params: SamplingParams
    before: Sequence[int]
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    detokenizer: Any = None
    """The `IncrementalDetokenizer` of an engine that needs one, set once the prompt has been encoded."""
    delivered: bool = False
    """Whether an event has been delivered."""
    has_started_again: bool = False
    held: Token | None = None
    """What a request that wants its text as a whole has got so far."""

    def collect(self, token: Token) -> Token | None:
        """Return the token to deliver, if any: of a request with `final_only`, the joined tokens once the text has ended."""
        if not self.params.final_only:
            return token
        self.held = token if self.held is None else join([self.held, token])
        if (end := first_stop(self.held.text, self.params.stop)) is not None:
            return replace(self.held, text=self.held.text[:end], finish_reason="stop")
        return self.held if token.finish_reason else None

    def start_again(self) -> bool:
        """Forget what the process has generated, for another one. Returns False if something was delivered, or if this was done before."""
        if self.delivered or self.has_started_again:
            return False
        self.has_started_again, self.detokenizer, self.held = True, None, None
        return True


@dataclass(eq=False)
class Call:
    """A message whose `Reply` somebody waits for."""

    message: Message
    future: asyncio.Future[Any]


def put_events(events: Iterable[tuple[Request, Event]]) -> list[Request]:
    """Put each event into the queue of its request, with one call to each event loop. Returns the requests whose loop is closed."""
    deliveries: dict[asyncio.AbstractEventLoop, list[tuple[Request, Event]]] = defaultdict(list)
    for request, event in events:
        deliveries[request.loop].append((request, event))
    unreachable = []
    for loop, delivery in deliveries.items():
        try:
            loop.call_soon_threadsafe(_put_all, delivery)
        except RuntimeError:  # nobody waits any more
            unreachable += [request for request, _ in delivery]
    return unreachable


def _put_all(delivery: list[tuple[Request, Event]]) -> None:
    for request, event in delivery:
        request.events.put_nowait(event)


def resolve(call: Call, outcome: Any) -> None:
    """Set the result, or the exception, of a call."""

    def set_outcome() -> None:
        if call.future.done():
            return
        if isinstance(outcome, Exception):
            call.future.set_exception(outcome)
        else:
            call.future.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
        call.future.get_loop().call_soon_threadsafe(set_outcome)
