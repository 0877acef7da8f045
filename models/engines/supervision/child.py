"""The service's handle of an engine's process: starting it, sending to it, ending it."""

import logging
import multiprocessing
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.engines import EngineStopped
from models.engines.supervision.messages import Failure, Ready

logger = logging.getLogger("bentoml.trigen.engine")
ROOT = Path(__file__).resolve().parents[3]
EXIT_SECONDS = 30
"""How long to wait for the process to exit before killing it."""
START_SECONDS = 300
"""How long a process may take to load its model."""


class ChildProcess:
    """One process, its connection, and the thread that sends to it.

    Raises EngineStopped if the process cannot load its model, or if `closing` is set while it loads.
    """

    def __init__(self, module: str, start_message: Any, send: Callable[["ChildProcess", Any], None], closing: threading.Event) -> None:
        self.outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.connection, process_end = multiprocessing.Pipe()
        command = [sys.executable, "-m", module, str(process_end.fileno())]
        with process_end:
            # A process group of its own: Ctrl-C must reach only the service, which drains its requests first.
            self._popen = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[process_end.fileno()], process_group=0)
        self._send = send
        self._sender = threading.Thread(target=self._send_loop, daemon=True)
        reply = self._load(start_message, closing)
        if isinstance(reply, Failure):
            self.wait()
            self.connection.close()
            raise EngineStopped(reply.message)
        self._sender.start()

    def _load(self, start_message: Any, closing: threading.Event) -> Ready | Failure:
        """Wait until the process has loaded its model."""
        try:
            self.connection.send(start_message)
            deadline = time.monotonic() + START_SECONDS
            while not self.connection.poll(0.1):
                if closing.is_set() or time.monotonic() > deadline:
                    self.kill()
                    return Failure(
                        "it was closed" if closing.is_set() else f"its process has not loaded the model within {START_SECONDS} s"
                    )
            reply: Ready | Failure = self.connection.recv()
        except (EOFError, OSError):
            return Failure(f"its process exited with status {self.wait()}")
        return reply

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._popen.pid

    def kill(self) -> None:
        """Kill the process, which may hang or be stopped."""
        self._popen.kill()

    def wait(self) -> int:
        """Wait for the process to exit, kill it if it does not, and return its exit status."""
        try:
            return self._popen.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._popen.wait()

    def end(self) -> int:
        """Stop sending, wait for the process to exit and return its exit status."""
        self.outbox.put(None)
        status = self.wait()
        self._sender.join()
        self.connection.close()
        return status

    def _send_loop(self) -> None:
        try:
            while (item := self.outbox.get()) is not None:
                self._send(self, item)
            self.connection.send(None)
        except OSError:
            pass  # the process has exited, which the receiving thread notices
        except Exception:
            logger.exception("a message could not be sent to the engine's process")
            self.kill()  # without this thread, every new request would wait for ever
