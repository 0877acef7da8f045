"""The messages between the service and the engine's process (`openvino.py` and `openvino_process.py`).

In each message, `id` is the id of a request or of a text whose log-probabilities are read, while `ids` are token ids.
"""

from dataclasses import dataclass
from typing import NamedTuple

from models.base import FinishReason, SamplingParams
from models.engines import IdLogprob


@dataclass(frozen=True)
class OpenVINOConfig:
    """The settings of the pipeline."""

    cache_gb: int = 1
    """Memory for the key-value cache, in GB."""
    prefix_caching: bool = True
    """Reuse the cache of a common prefix, so that many questions about one passage read it once."""
    step_tokens: int = 256
    """Maximum number of tokens in a step. A longer prompt is read in chunks, and other requests advance in between."""
    one_at_a_time: bool = False
    """Run requests one after the other, in order of arrival, and read each prompt in one step."""
    properties: tuple[tuple[str, str], ...] = ()
    """Properties of OpenVINO's CPU plugin: names and values. The plugin chooses the others, such as bf16 arithmetic if the processor
    has it."""


EXACT = OpenVINOConfig(
    properties=(("INFERENCE_PRECISION_HINT", "f32"), ("KV_CACHE_PRECISION", "f32"), ("DYNAMIC_QUANTIZATION_GROUP_SIZE", "0"))
)
"""Arithmetic, cache and activations in fp32, as in the reference (transformers on a CPU)."""

REPRODUCIBLE = OpenVINOConfig(one_at_a_time=True, prefix_caching=False)
"""Each request is computed by itself: neither a batch nor a cache filled by another request changes how its numbers are rounded. No
precision alone guarantees that (`benchmarks/reproducibility.py`)."""


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True)
class AddRequest:
    """Start a request at the next step."""

    id: int
    prompt: list[int]
    params: SamplingParams
    eos: frozenset[int]
    """End-of-text tokens."""


@dataclass(frozen=True)
class ReadLogprobs:
    """Compute the log-probabilities of the next tokens of a text. The first message with an id starts a text."""

    id: int
    ids: list[int]


@dataclass(frozen=True)
class Cancel:
    """Drop a request at the next step, or a text whose log-probabilities are being read."""

    id: int


class Output(NamedTuple):
    """New tokens of a request."""

    id: int
    ids: list[int]
    cumulative_logprob: float
    """Sum of the tokens' log-probabilities; 0 unless the request asks for it."""
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class StepReport:
    """The results of one or more steps."""

    steps: int
    """Number of steps since the start of the process."""
    running: int
    """Number of requests in progress."""
    outputs: list[Output]
    failures: list[tuple[int, str]]
    """Ids of requests that failed, with the reasons."""


@dataclass(frozen=True)
class LogprobsReply:
    """The reply to a `ReadLogprobs`."""

    id: int
    logprobs: list[IdLogprob] | str
    """One entry for each token, or the reason for a failure."""


@dataclass(frozen=True)
class Failure:
    """The process has failed and is about to exit."""

    message: str
