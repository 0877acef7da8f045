"""What the service and the engine's process (`openvino.py`, `openvino_process.py`) say to each other."""

from dataclasses import dataclass

from models.base import FinishReason, SamplingParams
from models.engines import IdScore


@dataclass(frozen=True)
class OpenVINOConfig:
    """How the pipeline computes."""

    cache_gb: int = 1
    """Memory of the key-value cache."""
    prefix_caching: bool = True
    """Many questions on one passage read it once."""
    step_tokens: int = 256
    """Tokens of a step at most: a long prompt is read in pieces, between which the others go on."""
    one_at_a_time: bool = False
    """Requests wait for each other, in the order in which they came, and a prompt is read in one step."""
    properties: tuple[tuple[str, str], ...] = ()
    """Of OpenVINO's CPU plugin, by name; what is not given it chooses by itself: bf16 arithmetic where the processor has it."""


EXACT = OpenVINOConfig(
    properties=(("INFERENCE_PRECISION_HINT", "f32"), ("KV_CACHE_PRECISION", "f32"), ("DYNAMIC_QUANTIZATION_GROUP_SIZE", "0"))
)
"""Arithmetic, cache and activations in fp32: what the reference gives."""

REPRODUCIBLE = OpenVINOConfig(one_at_a_time=True, prefix_caching=False)
"""Each request is computed as if there were no other: neither a batch nor a cache that another one filled changes how its numbers are
rounded. No precision promises that (`benchmarks/reproducibility.py`).
"""


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True)
class Add:
    """A request joins at the next step."""

    id: int
    prompt: list[int]
    params: SamplingParams
    eos: frozenset[int]
    """Tokens that end the text."""


@dataclass(frozen=True)
class Read:
    """A text to be scored goes on, or begins."""

    id: int
    ids: list[int]


@dataclass(frozen=True)
class Cancel:
    """A request leaves at the next step; a text to be scored is forgotten."""

    id: int


Generated = tuple[int, list[int], float, FinishReason | None]
"""The request, its next ids, their log-probability (0 where it was not asked for), and what ends the text with them."""


@dataclass(frozen=True)
class Report:
    """What came of steps."""

    steps: int
    """Since the beginning."""
    running: int
    """Requests that go on."""
    generated: list[Generated]
    failures: list[tuple[int, str]]
    """Requests that have ended so, and why."""


@dataclass(frozen=True)
class Scores:
    """What came of a `Read`."""

    id: int
    scores: list[IdScore] | str
    """Of its ids; or why it failed."""


@dataclass(frozen=True)
class Failure:
    """The process ends."""

    message: str
