"""The search for the best spans of a passage, computed by the `ScoringModel` of the engine's process."""

from typing import ClassVar

import numpy as np

from models.engines import ScoredSpan
from models.engines.openvino.scoring import Task, infer
from models.engines.spans.beam import SpanSearch
from models.engines.supervision.messages import FindSpans


class SpanTask(Task):
    """A search. Its cache holds the prompt once for each row of the beam, so one search has a cache at a time."""

    LIMIT: ClassVar[int] = 1
    FREES_MEMORY: ClassVar[bool] = True

    def __init__(self, message: FindSpans) -> None:
        self._pending, self._search = message.prompt, SpanSearch(message.trie, message.count, message.eos)
        self._computed = 0
        """Number of tokens in the key-value cache."""

    def advance(self, step_tokens: int) -> list[ScoredSpan] | None:
        """See `Task`. The first passes read the prompt; each further one takes a step of the search."""
        assert self.request is not None
        if self._pending:
            chunk, self._pending = self._pending[:step_tokens], self._pending[step_tokens:]
            inputs, parents = np.array([chunk]), [0]
        else:
            inputs, parents = np.array(self._search.tokens)[:, None], self._search.parents
        logprobs = infer(self.request, inputs, self._computed, parents)[-1]
        self._computed += inputs.shape[1]
        if self._pending:
            return None
        self._search.advance(logprobs)
        return self._search.spans if self._search.done else None
