"""Log-probabilities of given tokens, computed by the `ScoringModel` of the engine's process."""

from typing import ClassVar

import numpy as np

from models.engines import IdLogprob
from models.engines.openvino.scoring import ScoringModel, Task, infer
from models.engines.supervision.messages import ReadLogprobs


def read_logprobs(model: ScoringModel, message: ReadLogprobs) -> None:
    """Start a text, or read more of it."""
    text = model.get(message.id)
    if isinstance(text, ScoredText):
        text.pending = message.ids
        model.resume(message.id)
    else:
        model.add(message.id, ScoredText(message.ids))


class ScoredText(Task):
    """A text that is being read, piece by piece."""

    STAYS: ClassVar[bool] = True

    def __init__(self, ids: list[int]) -> None:
        self.pending = ids
        """The tokens to read next."""
        self._last: int | None = None
        """The last token read. The model has not computed it yet: that happens together with its successor's log-probability."""
        self._computed = 0
        """Number of tokens in the key-value cache."""
        self._logprobs: list[IdLogprob] = []

    def advance(self, step_tokens: int) -> list[IdLogprob] | None:
        """See `Task`. The value has an entry for each token of the piece."""
        chunk, self.pending = self.pending[:step_tokens], self.pending[step_tokens:]
        self._logprobs += self._compute(chunk)
        if self.pending:
            return None
        logprobs, self._logprobs = self._logprobs, []
        return logprobs

    def _compute(self, chunk: list[int]) -> list[IdLogprob]:
        """Return the log-probabilities of the tokens in `chunk`, which follow the text read so far."""
        is_first = self._last is None
        first: list[IdLogprob] = [(None, [])] if is_first else []
        targets = chunk[1:] if is_first else chunk
        inputs = chunk[:-1] if self._last is None else [self._last, *chunk[:-1]]
        self._last = chunk[-1]
        if not targets:
            return first
        assert self.request is not None
        outputs = infer(self.request, np.array([inputs]), self._computed, [0], np.array([targets]))
        self._computed += len(inputs)
        chosen, best, best_ids = (output[0].tolist() for output in outputs[:3])
        return first + [(logprob, list(zip(ids, values, strict=True))) for logprob, ids, values in zip(chosen, best_ids, best, strict=True)]
