"""Run a server in a separate process for as long as it is needed."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

PROJECT = Path(__file__).resolve().parents[2]
READY_SECONDS, END_SECONDS = 300, 30


@contextmanager
def served(
    command: list[str], ready: str, log: Path, environment: Mapping[str, str], port: int | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a server, wait until its route `ready` answers 200, and yield its URL and process; stop it and its children afterwards.

    `command` runs in the project's root; its word `PORT` is replaced by `port`, or by a free one. Raises RuntimeError with the end of
    `log` if the server does not become ready.
    """
    port = port or free_port()
    command = [str(port) if word == "PORT" else word for word in command]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{url}{ready}", process, log)
        yield url, process
    finally:
        end(process)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `url` answers 200; raise RuntimeError with the end of `log` if the process exits or the timeout passes."""
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=2).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"not ready; the end of {log}:\n{log.read_text()[-2000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and its children there: with SIGTERM, and after a while with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(END_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        else:
            return
