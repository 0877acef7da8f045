"""The main loop of an engine's process, which `child.py` starts as `python -m MODULE FD`.

FD is the file descriptor of a connection to the service; `messages.py` has the messages. The process exits when it receives None, when the
service is gone, and when a step fails.
"""

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any, Protocol

from models.engines.supervision.messages import (
    AddRequest,
    Cancel,
    Failure,
    FindSpans,
    Message,
    Ping,
    Pong,
    ReadLogprobs,
    Ready,
    Reply,
    StepReport,
)

NICENESS = 5
"""Added to the process's niceness: the service, which answers probes and forwards tokens, gets the processor as soon as it needs it."""


class Stepper(Protocol):
    """A model that advances all of its requests by one step at a time."""

    @property
    def idle(self) -> bool:
        """Whether a step would have nothing to do."""
        ...

    @property
    def wakeup(self) -> int | None:
        """A file descriptor that becomes readable when an idle stepper has something to do again, if there is one."""
        ...

    def handle(self, message: AddRequest | ReadLogprobs | FindSpans | Cancel) -> Iterable[StepReport | Reply]:
        """Accept a message. Returns replies that are due at once."""
        ...

    def step(self) -> Iterable[StepReport | Reply]:
        """Advance all requests. Returns what there is to send. An exception ends the process."""
        ...


def serve(descriptor: int, load: Callable[[Any], Stepper]) -> None:
    """Load the model and serve until the service sends None or is gone.

    `load` receives the first message of the service.
    """
    with Connection(descriptor) as connection:
        try:
            stepper = load(connection.recv())
            connection.send(Ready())
            _run(stepper, connection)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except BaseException as error:  # the service must learn of any failure
            with contextlib.suppress(OSError):
                connection.send(Failure(str(error) or type(error).__name__))
            raise


def _run(stepper: Stepper, connection: Connection) -> None:
    """Handle messages and take steps; wait for messages while idle."""
    incoming = select.poll()  # once for all steps: `Connection.poll` creates a new selector for each call
    incoming.register(connection, select.POLLIN)
    if stepper.wakeup is not None:
        incoming.register(stepper.wakeup, select.POLLIN)
    while True:
        while events := incoming.poll(None if stepper.idle else 0):
            if connection.fileno() not in dict(events):
                break  # the stepper has something to do
            message: Message | None = connection.recv()
            if message is None:
                return
            for reply in [Pong()] if isinstance(message, Ping) else stepper.handle(message):
                connection.send(reply)
        for reply in stepper.step():
            connection.send(reply)


def main(arguments: list[str], load: Callable[[Any], Stepper]) -> None:
    """Run the process with the arguments of its command line."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the service handles these signals, and drains its requests first
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    serve(int(arguments[-1]), load)
