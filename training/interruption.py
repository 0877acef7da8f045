"""SIGTERM and SIGINT: training saves first; all else has nothing to lose and ends at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The run was asked to end. A KeyboardInterrupt, for asyncio reports any other exception of a signal handler and goes on."""

    def __init__(self, by: int, saved: bool) -> None:
        super().__init__()
        self.by, self.saved = by, saved

    @property
    def exit_status(self) -> int:
        """0 after SIGTERM, with which schedulers ask; 130 after Ctrl-C, as shells expect."""
        return 0 if self.by == signal.SIGTERM else 128 + self.by


class Interruption:
    """Turns SIGTERM and SIGINT into `Interrupted`, at once or, while `deferred`, when the loop looks at `requested`."""

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferred = False

    def install(self) -> None:
        """Handle the signals from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        again, self.requested = self.requested is not None, number
        if again or not self._deferred:
            raise Interrupted(number, saved=False)
        os.write(2, b"\nfinishing this step, then saving; once more ends it at once\n")  # a handler may not print: it may interrupt one

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the code inside come to a good place first; a second signal does not wait."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Inside `deferred`, where all is saved: a signal ends what is inside at once."""
        self._deferred = False
        if self.requested is not None:
            raise Interrupted(self.requested, saved=True)
        try:
            yield
        finally:
            self._deferred = True
