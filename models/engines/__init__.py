"""Engines, which generate text with an LLM: openvino/ on a CPU; transformers.py on CUDA, and on a CPU as the reference."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from tokenizers import Tokenizer

from models.base import Prompt, SamplingParams, Token
from models.engines.tokenization import ModelLimits
from models.spans import SpanTrie

MAX_LOGPROBS = 5
"""Number of alternatives whose log-probabilities are computed for each token."""

SCORED_TEXTS = 4
"""Number of texts whose log-probabilities are computed at once: each holds a key-value cache in fp32, of 75 MB for 1,024 tokens of GPT-2
small. Other texts wait."""

UNREAD_FILES = {"openvino": ("model*.safetensors*",), "transformers": ("openvino",)}
"""Names in an LLM artifact, of files and directories, that the engine does not read: the other engine's weights."""

IdLogprob = tuple[float | None, list[tuple[int, float]]]
"""The log-probability of a token, and the ids and log-probabilities of the `MAX_LOGPROBS` most probable tokens at its position, in
descending order. The first token of a text has no predecessor: its entry is (None, [])."""


class ScoredSpan(NamedTuple):
    """A span of a passage and its probability as an answer."""

    ids: tuple[int, ...]
    """Its tokens; `Spans.occurrences` tells where it stands."""
    logprob: float
    """Logarithm of the probability that the model continues the prompt with exactly these tokens and the end of the text. It is the
    model's own, among all texts: the probabilities of all spans of a passage add up to at most 1."""


class LogprobReader(Protocol):
    """Reads one text piece by piece, from its beginning, and computes the log-probability of each token."""

    async def read(self, ids: Sequence[int]) -> list[IdLogprob]:
        """Return the log-probabilities of the next tokens of the text. Raises `EngineStopped`."""
        ...

    def close(self) -> None:
        """Drop the text and cancel a read in progress."""
        ...


class Engine(Protocol):
    """Runs one causal language model for many concurrent requests."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        ...

    @property
    def limits(self) -> ModelLimits:
        """The model's context length and its end-of-text tokens."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the engine accepts requests. False once it has been closed or has failed for good."""
        ...

    @property
    def ready(self) -> bool:
        """Whether the engine works on requests now. False also while its process is being replaced."""
        ...

    @property
    def restarts(self) -> int:
        """How often the engine's process has been replaced."""
        ...

    @property
    def cache_usage(self) -> float:
        """Share of the key-value cache in use, from 0 to 1."""
        ...

    @property
    def running(self) -> int:
        """Number of requests in progress."""
        ...

    @property
    def steps(self) -> int:
        """Number of forward passes so far."""
        ...

    def stream(self, prompt: Prompt, params: SamplingParams, before: Sequence[int] = ()) -> AsyncGenerator[Token]:
        """Continue `prompt`, in front of which the token ids `before` are put: see `TextModel.stream`.

        `params.length` must not be 0. `params.logprobs` is left to the caller, and so is `params.stop`, though an engine may end a text
        with `final_only` itself. The end-of-text token is yielded too, with empty text. Raises `EngineStopped` if the engine fails, and
        `EngineBusy` if it has no room.
        """
        ...

    def logprob_reader(self) -> LogprobReader:
        """Return a reader for one text."""
        ...

    async def best_spans(self, prompt: Sequence[int], trie: SpanTrie, count: int) -> list[ScoredSpan]:
        """Return the `count` most probable answers to `prompt` among the spans in `trie`, all different, the best one first.

        A beam search finds them (`models/engines/spans/beam.py`). It may miss a better span, but returns `count` spans, or all if there
        are fewer: at least one if there is any. The end may be any of the end-of-text tokens, whose probabilities are added.

        `prompt`, token ids, must not be empty, and `count` must be at least 1; the memory grows with the product of both. Raises
        `PromptTooLong` if the prompt and the longest span exceed the context, `EngineStopped` if the engine fails, and `EngineBusy` if
        it has no room.
        """
        ...

    def close(self) -> None:
        """Stop the engine. Requests in progress raise `EngineStopped`."""
        ...


class EngineStopped(RuntimeError):
    """The engine has been closed or has failed."""


class EngineBusy(RuntimeError):
    """The engine has no room for the request at the moment."""


def _do_nothing() -> None:
    pass


@dataclass(frozen=True)
class Supervision:
    """When the process of an engine is replaced."""

    hang_seconds: float = 20.0
    """A process that has not answered for this long is hung. It answers between two steps, so this must exceed the longest step."""
    max_failures: int = 5
    """The engine gives up after this many failures in a row."""
    backoff_seconds: float = 1.0
    """The first replacement starts at once, the next after this time, and each further one after more than twice as long."""
    give_up: Callable[[], None] = _do_nothing
    """Called, in a thread, when the engine gives up."""


def load_engine(directory: Path, name: str = "auto", *, reproducible: bool = False, supervision: Supervision = Supervision()) -> Engine:
    """Load an engine for the LLM artifact in `directory`.

    `name` is `openvino`, `transformers` or `auto`, which takes transformers if there is a CUDA device and `reproducible` is not set, else
    openvino. With `reproducible`, the CPU engine computes each request by itself, so that a seed's text does not depend on concurrent
    requests. The packages of an engine are imported only when it is loaded, so either can be used without the other. Raises
    ValueError for an unknown name, and for a reproducible transformers engine.
    """
    if name == "transformers" or (name == "auto" and not reproducible and default_engine() == "transformers"):
        if reproducible:
            raise ValueError("the transformers engine is not reproducible: use the openvino engine")
        from models.engines.transformers import TransformersEngine

        return TransformersEngine(directory)
    if name in ("auto", "openvino"):
        from models.engines.openvino import REPRODUCIBLE, OpenVINOConfig, OpenVINOEngine

        return OpenVINOEngine(directory, REPRODUCIBLE if reproducible else OpenVINOConfig(), supervision)
    raise ValueError(f"unknown engine {name!r}: use auto, openvino or transformers")


def default_engine() -> str:
    """Return the name of the engine for this machine: transformers if there is a GPU that torch can use, else openvino."""
    return "transformers" if _has_cuda() else "openvino"


def _has_cuda() -> bool:
    # Without a driver's device file (NVIDIA's, WSL's or AMD's) there is no need to import torch, which takes seconds.
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return False
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
