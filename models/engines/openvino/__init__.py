"""The CPU engine: openvino-genai's continuous batching in a process of its own (`process.py`). This is the service's side."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.base import Token
from models.engines import EngineStopped, IdLogprob, ScoredSpan, Supervision
from models.engines.supervision.engine import SupervisedEngine
from models.engines.supervision.messages import AddRequest, Cancel, FindSpans, Output, ReadLogprobs, TextOutput
from models.engines.supervision.requests import Request
from models.engines.tokenization import IncrementalDetokenizer, ModelLimits, encode, load_tokenizer
from models.spans import SpanTrie


@dataclass(frozen=True)
class OpenVINOConfig:
    """The settings of the pipeline."""

    cache_gb: int = 1
    """Maximum memory of the key-value cache, in GB, of all pipelines together."""
    cache_contexts: float = 48
    """Maximum size of the key-value cache, in texts as long as the model's context. Prefix caching fills the whole cache in time, and a
    small model would never fill a gigabyte: its process would seem to leak."""
    prefix_caching: bool = True
    """Reuse the cache of a common prefix, so that many questions about one passage read it once."""
    step_tokens: int = 256
    """Maximum number of tokens in a step. A longer prompt is read in chunks, and other requests advance in between."""
    one_at_a_time: bool = False
    """Run requests one after the other, in order of arrival, and read each prompt in one step."""
    int8_rows: bool | None = None
    """Compute products of int8 activations and int8 weights as `row_quantization.py` does. None: if the processor has AMX. A model
    without int8 weights is never changed."""
    prompt_lookup: bool = True
    """Draft texts with `SamplingParams.prompt_lookup` from their prompt, in a second pipeline: weights are packed twice."""
    properties: tuple[tuple[str, str], ...] = ()
    """Properties of OpenVINO's CPU plugin: names and values. The plugin chooses the others, such as bf16 arithmetic if the processor
    has it."""


EXACT = OpenVINOConfig(
    int8_rows=False,
    prompt_lookup=False,
    properties=(("INFERENCE_PRECISION_HINT", "f32"), ("KV_CACHE_PRECISION", "f32"), ("DYNAMIC_QUANTIZATION_GROUP_SIZE", "0")),
)
"""Arithmetic, cache and activations in fp32, as in the reference (transformers on a CPU)."""

REPRODUCIBLE = OpenVINOConfig(one_at_a_time=True, prefix_caching=False, prompt_lookup=False)
"""Each request is computed by itself: neither a batch nor a cache filled by another request changes how its numbers are rounded. No
precision alone guarantees that (`benchmarks/reproducibility.py`)."""


class OpenVINOEngine(SupervisedEngine):
    """Runs the artifact of an LLM: the IR that `training/export/openvino_ir.py` writes, and its tokenizer.

    The threads of `SupervisedEngine` tokenize and detokenize, so the process handles ids only.
    """

    def __init__(self, directory: Path, config: OpenVINOConfig = OpenVINOConfig(), supervision: Supervision = Supervision()) -> None:
        """Start the process and wait until it has loaded the model. Raises EngineStopped if it cannot."""
        self.tokenizer, self.limits = load_tokenizer(directory), ModelLimits(directory)
        start_message = directory.resolve(), config
        super().__init__("the LLM's engine", "models.engines.openvino.process", start_message, supervision)

    def logprob_reader(self) -> "OpenVINOLogprobReader":
        """See `Engine`."""
        return OpenVINOLogprobReader(self)

    async def best_spans(self, prompt: Sequence[int], trie: SpanTrie, count: int) -> list[ScoredSpan]:
        """See `Engine`. One search runs at a time; the others wait. If the process is replaced, the search starts again, once."""
        self.limits.check(len(prompt), trie.depth)
        if trie.empty:
            return []
        try:
            return await self._search(prompt, trie, count)
        except EngineStopped:
            if not self.alive:
                raise
            return await self._search(prompt, trie, count)

    async def _search(self, prompt: Sequence[int], trie: SpanTrie, count: int) -> list[ScoredSpan]:
        id = next(self._ids)
        try:
            spans: list[ScoredSpan] = await self._call(id, FindSpans(id, list(prompt), trie, count, self.limits.eos))
        except asyncio.CancelledError:
            self._post(Cancel(id))
            raise
        return spans

    async def read_logprobs(self, id: int, ids: list[int]) -> list[IdLogprob]:
        """Read the next tokens of the text with this id; for `OpenVINOLogprobReader`."""
        logprobs: list[IdLogprob] = await self._call(id, ReadLogprobs(id, ids))
        return logprobs

    def cancel_read(self, id: int) -> None:
        """Drop the text with this id; for `OpenVINOLogprobReader`."""
        self._post(Cancel(id))

    def new_id(self) -> int:
        """Return an id for a text whose log-probabilities are read."""
        return next(self._ids)

    def _message(self, id: int, request: Request) -> AddRequest:
        ids = [*request.before, *encode(self.tokenizer, request.prompt)]
        self.limits.check(len(ids), request.params.length)
        request.detokenizer = IncrementalDetokenizer(self.tokenizer, ids, self.limits.eos)
        return AddRequest(id, ids, request.params, self.limits.eos)

    def _token(self, request: Request, output: Output | TextOutput) -> Token:
        assert isinstance(output, Output)
        logprob = output.cumulative_logprob if request.params.cumulative_logprob else None
        token: Token = request.detokenizer.token(output.ids, logprob, output.finish_reason)
        return token


class OpenVINOLogprobReader:
    """See `LogprobReader`. A text whose process was replaced is read again from its beginning."""

    def __init__(self, engine: OpenVINOEngine) -> None:
        self._engine, self._id = engine, engine.new_id()
        self._read: list[int] = []

    async def read(self, ids: Sequence[int]) -> list[IdLogprob]:
        """See `LogprobReader`."""
        if not ids:
            return []
        try:
            logprobs = await self._engine.read_logprobs(self._id, list(ids))
        except EngineStopped:
            if not self._engine.alive:
                raise
            self._id = self._engine.new_id()
            logprobs = (await self._engine.read_logprobs(self._id, [*self._read, *ids]))[len(self._read) :]
        self._read += ids
        return logprobs

    def close(self) -> None:
        """See `LogprobReader`."""
        self._engine.cancel_read(self._id)
