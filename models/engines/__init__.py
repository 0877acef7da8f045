"""How an LLM generates: openvino.py on a CPU, transformers.py on CUDA and as the reference."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from models.base import Prompt, SamplingParams, Token
from models.engines.tokenization import ModelLimits

MAX_LOGPROBS = 5
"""Alternatives that a scorer names for each token."""

IdScore = tuple[float | None, list[tuple[int, float]]]
"""The log-probability of a token, and the `MAX_LOGPROBS` most probable ids in its place with theirs, the best first. The first token of a
text, before which nothing stands, has None and no alternatives.
"""


class Scorer(Protocol):
    """Reads one text from its beginning, piece by piece, and tells of each token what the model thinks of it in its place."""

    async def read(self, ids: Sequence[int]) -> list[IdScore]:
        """The scores of the next tokens. Raises `EngineStopped`."""
        ...

    def close(self) -> None:
        """Forget the text; what is being read is given up."""
        ...


class Engine(Protocol):
    """Runs one causal language model for many requests at once."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        ...

    @property
    def limits(self) -> ModelLimits:
        """The model's context, and the tokens that end a text."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it takes requests: not once it was closed or has failed."""
        ...

    @property
    def running(self) -> int:
        """Requests under way."""
        ...

    @property
    def steps(self) -> int:
        """Forward passes so far."""
        ...

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """As `TextModel.stream`, but `params.stop` and scores are not looked at, and `params.length` is not 0. The token that ends the text
        is yielded too, with an empty text.
        """
        ...

    def scorer(self) -> Scorer:
        """A reader of one text."""
        ...

    def close(self) -> None:
        """Stop working; requests under way raise `EngineStopped`."""
        ...


class EngineStopped(RuntimeError):
    """The engine was closed or has failed; it takes no more requests."""


def load_engine(directory: Path, name: str = "auto", *, reproducible: bool = False) -> Engine:
    """The engine for an LLM's artifact; `reproducible` makes the CPU engine compute so that a seed's text is the same in any company.

    `name` is `openvino`, `transformers`, or `auto`: transformers where there is a CUDA device and nothing need be reproducible, else
    openvino. The two are imported only when chosen: neither must be installed to use the other. Raises ValueError for another name,
    and where the transformers engine is asked to be reproducible.
    """
    if name == "transformers" or (name == "auto" and not reproducible and _has_cuda()):
        if reproducible:
            raise ValueError("the transformers engine promises no reproducible texts: take openvino")
        from models.engines.transformers import TransformersEngine

        return TransformersEngine(directory)
    if name in ("auto", "openvino"):
        from models.engines.openvino import OpenVINOEngine
        from models.engines.openvino_messages import REPRODUCIBLE, OpenVINOConfig

        return OpenVINOEngine(directory, REPRODUCIBLE if reproducible else OpenVINOConfig())
    raise ValueError(f"unknown engine {name!r}: use auto, openvino or transformers")


def _has_cuda() -> bool:
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):  # else spare the seconds that importing torch takes
        return False
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
