"""Engines, which generate text with an LLM: openvino.py on a CPU; transformers.py on CUDA, and on a CPU as the reference."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from models.base import Prompt, SamplingParams, Token
from models.engines.tokenization import ModelLimits

MAX_LOGPROBS = 5
"""Number of alternatives whose log-probabilities are computed for each token."""

IdLogprob = tuple[float | None, list[tuple[int, float]]]
"""The log-probability of a token, and the ids and log-probabilities of the `MAX_LOGPROBS` most probable tokens at its position, in
descending order. The first token of a text has no predecessor: its entry is (None, [])."""


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
        """Whether the engine accepts requests. False once it has been closed or has failed."""
        ...

    @property
    def running(self) -> int:
        """Number of requests in progress."""
        ...

    @property
    def steps(self) -> int:
        """Number of forward passes so far."""
        ...

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """Continue `prompt`: see `TextModel.stream`.

        `params.length` must not be 0; `params.stop` and `params.logprobs` are left to the caller. The end-of-text token is yielded too,
        with empty text.
        """
        ...

    def logprob_reader(self) -> LogprobReader:
        """Return a reader for one text."""
        ...

    def close(self) -> None:
        """Stop the engine. Requests in progress raise `EngineStopped`."""
        ...


class EngineStopped(RuntimeError):
    """The engine has been closed or has failed and accepts no more requests."""


def load_engine(directory: Path, name: str = "auto", *, reproducible: bool = False) -> Engine:
    """Load an engine for the LLM artifact in `directory`.

    `name` is `openvino`, `transformers` or `auto`, which takes transformers if there is a CUDA device and `reproducible` is not set, else
    openvino. With `reproducible`, the CPU engine computes each request by itself, so that a seed's text does not depend on concurrent
    requests. The packages of an engine are imported only when it is loaded, so either can be used without the other. Raises
    ValueError for an unknown name, and for a reproducible transformers engine.
    """
    if name == "transformers" or (name == "auto" and not reproducible and _has_cuda()):
        if reproducible:
            raise ValueError("the transformers engine is not reproducible: use the openvino engine")
        from models.engines.transformers import TransformersEngine

        return TransformersEngine(directory)
    if name in ("auto", "openvino"):
        from models.engines.openvino import OpenVINOEngine
        from models.engines.openvino_messages import REPRODUCIBLE, OpenVINOConfig

        return OpenVINOEngine(directory, REPRODUCIBLE if reproducible else OpenVINOConfig())
    raise ValueError(f"unknown engine {name!r}: use auto, openvino or transformers")


def _has_cuda() -> bool:
    # Without a driver's device file there is no need to import torch, which takes seconds.
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
