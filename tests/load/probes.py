"""Measure the latency of a busy service: `python -m tests.load.probes URL FILE`, a process of its own.

Sends each probe ten times a second until it is terminated, whether or not earlier ones have been answered, and appends a line to FILE for
each: its name, when it was sent (`time.monotonic`), the seconds to its answer, the status, and by how many seconds this process was late
to send it.
"""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import uvloop

PROJECT = Path(__file__).resolve().parents[2]
INTERVAL = 0.1
PROBES: dict[str, dict[str, Any] | None] = {"/livez": None, "/generate_text": {"start_word": "The light", "length": 20}}
"""The bodies of the probes; a GET request has none."""


@dataclass(frozen=True)
class Probed:
    """One line of the file."""

    name: str
    sent: float
    seconds: float
    status: int
    late: float


async def probe(session: aiohttp.ClientSession, url: str, name: str, due: float, out: TextIO) -> None:
    """Send one probe and write its line."""
    body = PROBES[name]
    sent, status = time.monotonic(), 0
    with contextlib.suppress(aiohttp.ClientError):
        async with session.request("POST" if body else "GET", url + name, json=body) as response:
            await response.read()
            status = response.status
    out.write(f"{name} {sent} {time.monotonic() - sent} {status} {sent - due}\n")


async def send_probes(url: str, file: Path) -> None:
    """Send all probes at their times, for ever. Those of different routes alternate."""
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        with file.open("a", buffering=1) as out:
            running = set[asyncio.Task[None]]()
            due = time.monotonic()
            while True:
                for name in PROBES:
                    await asyncio.sleep(max(0, due - time.monotonic()))
                    task = asyncio.create_task(probe(session, url, name, due, out))
                    running.add(task)
                    task.add_done_callback(running.discard)
                    due += INTERVAL / len(PROBES)


@contextlib.contextmanager
def probing(url: str, file: Path) -> Generator[None]:
    """Send probes until the end of the context."""
    process = subprocess.Popen([sys.executable, "-m", "tests.load.probes", url, str(file)], cwd=PROJECT)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def read_probes(file: Path) -> list[Probed]:
    """Return the lines of a file."""
    rows = (line.split() for line in file.read_text().splitlines())
    return [Probed(name, float(sent), float(seconds), int(status), float(late)) for name, sent, seconds, status, late in rows]


if __name__ == "__main__":
    uvloop.run(send_probes(sys.argv[1], Path(sys.argv[2])))
