"""SIGTERM and SIGINT: the training of the LLM and the LSTM saves a checkpoint first; everything else ends at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal ended the run.

    A KeyboardInterrupt, because asyncio logs any other exception that a signal handler raises and carries on.
    """

    def __init__(self, signal_number: int, saved: bool) -> None:
        super().__init__()
        self.signal_number, self.saved = signal_number, saved

    @property
    def exit_status(self) -> int:
        """143 after SIGTERM and 130 after Ctrl-C, as shells have it. The run is not finished: a scheduler should start it again."""
        return 128 + self.signal_number


class Interruption:
    """Turns SIGTERM and SIGINT into `Interrupted`: at once, or at the end of a `deferred` block."""

    def __init__(self) -> None:
        self.requested: int | None = None
        """The signal that asked the run to end. A deferred block polls it, and sets it when another process received the signal."""
        self._received = False
        self._deferred = False

    def install(self) -> None:
        """Start handling the signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold a signal back until the block has saved its work and ends. Ctrl-C after a signal is not held back.

        A second SIGTERM is: a cluster may send it to every process, and then torchrun sends it to its workers again.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested is not None:
            raise Interrupted(self.requested, saved=True)

    def _handle(self, number: int, _: FrameType | None) -> None:
        insists, self._received, self.requested = self._received and number == signal.SIGINT, True, number
        if insists or not self._deferred:
            raise Interrupted(number, saved=False)
        # Not print(): the handler may have interrupted one, and print is not reentrant.
        os.write(2, b"\nfinishing this step, then saving; Ctrl-C now ends the run at once\n")
