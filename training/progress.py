"""Progress bars: redrawn on a terminal, one line every half minute in a log."""

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 30
"""Time between two lines of a log. Work that takes less prints nothing."""


def progress_bar(*arguments: Any, **options: Any) -> "tqdm[Any]":
    """Return a tqdm bar with tqdm's options. If stderr is not a terminal, it prints whole lines, one every half minute."""
    if sys.stderr.isatty():
        return tqdm(*arguments, **options)
    # miniters is 0, because tqdm would otherwise adapt it to the speed so far, and print too rarely after a slowdown.
    return _LogLines(*arguments, **options | {"mininterval": LOG_SECONDS, "delay": LOG_SECONDS, "miniters": 0, "leave": False})


class _LogLines(tqdm):  # type: ignore[type-arg]  # not generic at run time
    """A bar that prints a line every `LOG_SECONDS` and a last one when it is closed."""

    monitor_interval = 0
    """Seconds between the forced redraws of tqdm's monitor thread; 0 starts no thread."""
    _time: Callable[[], float]
    """tqdm's clock, which the type stubs leave out."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002
        """Print the bar as a line, unless the last one is recent: `set_postfix` calls this each time."""
        now = self._time()
        if msg is None and now - self.last_print_t >= LOG_SECONDS:
            self.last_print_t = now
            print(self, file=self.fp, flush=True)

    def close(self) -> None:
        """Print the last line, unless the work was short."""
        if not getattr(self, "disable", True) and self._time() - self.start_t >= LOG_SECONDS:
            print(self, file=self.fp, flush=True)
        super().close()
