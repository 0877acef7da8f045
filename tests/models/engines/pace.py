"""Holds back the steps of an engine and allows them one by one, so that no text ends before a test wants it to."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

PROJECT = Path(__file__).resolve().parents[3]
POLL_SECONDS = 0.002
T = TypeVar("T")


class Pace:
    """The number of steps that an engine may take; unlimited at first."""

    def __init__(self, directory: Path) -> None:
        self._permits, self._allowed = directory / "permits", 0
        self.release()

    @property
    def allowed(self) -> int:
        """The number of steps allowed since `hold`."""
        return self._allowed

    def hold(self) -> None:
        """Allow no step."""
        self._allow(0)

    def release(self) -> None:
        """Allow all steps."""
        self._write("inf")

    async def step_until(self, condition: Awaitable[T]) -> T:
        """Allow steps one by one until `condition` is done, and return its result."""
        task = asyncio.ensure_future(condition)
        while not task.done():
            self._allow(self._allowed + 1)
            await asyncio.wait([task], timeout=0.01)
        return await task

    def limit(self, step: Callable[..., T]) -> Callable[..., T]:
        """Wrap a function that takes a step, so that it waits until the step is allowed."""
        taken = 0

        def limited(*arguments: Any) -> T:
            nonlocal taken
            while taken >= (allowed := float(self._permits.read_text())):
                time.sleep(POLL_SECONDS)
            taken = 0 if allowed == float("inf") else taken + 1
            return step(*arguments)

        return limited

    def openvino_executable(self) -> Path:
        """Write a program that can stand in for Python where `OpenVINOEngine` starts its process."""
        program = self._permits.with_name("process.py")
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(PROJECT)!r})\nfrom tests.models.engines.pace import main\nmain()\n"
        )
        program.chmod(0o755)
        return program

    def _allow(self, steps: int) -> None:
        self._allowed = steps
        self._write(str(steps))

    def _write(self, permits: str) -> None:
        written = self._permits.with_suffix(".new")
        written.write_text(permits)
        written.rename(self._permits)


def main() -> None:
    """Run the CPU engine's process at the pace of the directory that holds this program."""
    from models.engines.openvino import batch, process
    from models.engines.supervision import loop

    pace = Pace(Path(sys.argv[0]).parent)
    batch.Batch.step = pace.limit(batch.Batch.step)  # type: ignore[method-assign]
    loop.main(sys.argv, process.load)
