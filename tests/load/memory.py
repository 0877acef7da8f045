"""Measure the memory of a service: the resident memory of all its processes."""

import contextlib
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass

import psutil

INTERVAL = 1.0


@dataclass(frozen=True)
class Sample:
    """The memory at one time (`time.monotonic`), in bytes, by process id."""

    time: float
    by_process: dict[int, int]

    @property
    def total(self) -> int:
        """The memory of all processes."""
        return sum(self.by_process.values())


def sample(pid: int) -> Sample:
    """Return the memory of a process and its descendants."""
    root = psutil.Process(pid)
    by_process = {}
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            by_process[process.pid] = process.memory_info().rss
    return Sample(time.monotonic(), by_process)


@contextlib.contextmanager
def sampling(pid: int) -> Generator[list[Sample]]:
    """Yield a list, to which a thread adds a sample each second until the end of the context."""
    samples: list[Sample] = []
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(INTERVAL):
            samples.append(sample(pid))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield samples
    finally:
        stopped.set()
        thread.join()
