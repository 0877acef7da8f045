"""When the tokens of a stream are sent to the service."""

import math
from dataclasses import dataclass
from typing import Self

from models.base import SamplingParams

FULL_RATE_REQUESTS = 12
"""Up to this many requests are flushed at the interval that they ask for. With more, the intervals grow in proportion: otherwise messages
would take a growing share of the processor time, while each request gets fewer tokens anyway."""


@dataclass
class FlushSchedule:
    """The flushes of one request.

    The clock is divided into intervals, so that all streams with the same interval flush together, in one message that wakes the service
    once. The first token and the end of a text are flushed at once.
    """

    interval: float
    """Seconds between flushes; 0 flushes at every step, and infinity only at the end."""
    last: float | None = None
    """Time of the last flush. None before the first one, which is never delayed."""

    @classmethod
    def of(cls, params: SamplingParams) -> Self:
        """Return the schedule of a new request."""
        if params.stop:  # the service checks each token
            return cls(0.0)
        if params.final_only:  # not even the first token is flushed before the end
            return cls(math.inf, last=0.0)
        return cls(params.flush_interval)

    def due(self, now: float, running: int, *, finished: bool) -> bool:
        """Whether to flush the tokens that there are, with `running` requests in progress. Counts as a flush if so."""
        interval = max(1.0, running / FULL_RATE_REQUESTS) * self.interval
        if not finished and self.last is not None and interval and now // interval <= self.last // interval:
            return False
        self.last = now
        return True
