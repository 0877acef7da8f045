"""The messages between the service and the process of an engine (`engine.py` and `loop.py`).

The service first sends what the process needs to load its model, then the messages of the first part, and finally None. The process
replies with `Ready` or `Failure`, and then with the messages of the second part. In each message, `id` is the id of a request, of a text
whose log-probabilities are read, or of a search for spans, while `ids` are token ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from models.base import FinishReason, Prompt, SamplingParams, Token
from models.spans import SpanTrie


@dataclass(frozen=True)
class AddRequest:
    """Start a request at the next step."""

    id: int
    prompt: Prompt
    """Token ids for the LLM, text for the LSTM."""
    params: SamplingParams
    eos: frozenset[int] = frozenset()
    """End-of-text tokens."""


@dataclass(frozen=True)
class ReadLogprobs:
    """Compute the log-probabilities of the next tokens of a text. The first message with an id starts a text."""

    id: int
    ids: list[int]


@dataclass(frozen=True)
class FindSpans:
    """Find the best answers that are spans of a passage: see `Engine.best_spans`."""

    id: int
    prompt: list[int]
    trie: SpanTrie
    count: int
    eos: frozenset[int]
    """End-of-text tokens."""


@dataclass(frozen=True)
class Cancel:
    """Drop a request at the next step, a text whose log-probabilities are being read, or a search for spans."""

    id: int


@dataclass(frozen=True)
class Ping:
    """Answer with `Pong` before the next step: a process that does not is hung."""


Message = AddRequest | ReadLogprobs | FindSpans | Cancel | Ping


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True)
class Pong:
    """The answer to a `Ping`."""


class Output(NamedTuple):
    """New tokens of a request to the LLM, which the service detokenizes."""

    id: int
    ids: list[int]
    cumulative_logprob: float
    """Sum of the tokens' log-probabilities; 0 unless the request asks for it."""
    finish_reason: FinishReason | None


class TextOutput(NamedTuple):
    """New tokens of a request to the LSTM, joined into one."""

    id: int
    token: Token


class RequestFailure(NamedTuple):
    """A request that has failed alone."""

    id: int
    reason: str
    busy: bool = False
    """Whether the engine had no room for it: the same request may succeed later."""


@dataclass(frozen=True)
class StepReport:
    """The results of one or more steps."""

    steps: int
    """Number of steps since the start of the process."""
    running: int
    """Number of requests in progress."""
    outputs: Sequence[Output | TextOutput]
    failures: Sequence[RequestFailure]
    cache_usage: float = 0.0
    """Share of the key-value cache in use, from 0 to 1."""


@dataclass(frozen=True)
class Reply:
    """The reply to a `ReadLogprobs`, one `IdLogprob` for each token, or to a `FindSpans`, the `ScoredSpan`s; or why it failed."""

    id: int
    value: Any = None
    error: str | None = None
    busy: bool = False
    """See `RequestFailure`."""


@dataclass(frozen=True)
class Failure:
    """The process has failed and is about to exit."""

    message: str
