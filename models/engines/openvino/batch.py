"""The requests that openvino-genai's pipeline advances together, in the engine's process."""

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
from numpy.typing import NDArray
from openvino_genai.py_openvino_genai import GenerationHandle

from models.base import FinishReason, SamplingParams
from models.engines.openvino import OpenVINOConfig
from models.engines.openvino.pipeline import BLOCK_TOKENS, load_pipelines
from models.engines.openvino.scoring import is_out_of_memory
from models.engines.supervision.flushing import FlushSchedule
from models.engines.supervision.messages import AddRequest, Output, RequestFailure, StepReport

RECENT_PROMPTS = 16
"""Number of prompts that are remembered as cached."""
DRAFT_TOKENS, MATCHED_TOKENS = 5, 2
"""Prompt lookup drafts up to `DRAFT_TOKENS` tokens, those that follow an earlier place of the last `MATCHED_TOKENS` tokens or fewer."""
MAX_DRAFTING = 8
"""A text drafts if fewer texts than this are in progress when it starts. openvino-genai pads drafts to their full number, so with more
texts their products cost more than the steps that they save (docs/benchmarks.md, "Prompt lookup")."""


def generation_config(params: SamplingParams, eos: frozenset[int], *, drafts: bool = False) -> genai.GenerationConfig:
    """Translate `params` for openvino-genai. A token in `eos` ends the text; stop strings are left to the service.

    `drafts` is for a pipeline with prompt lookup, and for no other.
    """
    config = genai.GenerationConfig(max_new_tokens=params.length, stop_token_ids=set(eos), logprobs=int(params.cumulative_logprob))
    if not params.greedy:
        config.do_sample = True
        config.temperature, config.rng_seed = params.temperature, params.seed
        config.top_p = max(params.top_p, float(np.finfo(np.float32).tiny))  # as a float32, it must not round to 0
        if params.top_k:
            config.top_k = params.top_k
    if drafts:
        config.num_assistant_tokens, config.max_ngram_size = DRAFT_TOKENS, MATCHED_TOKENS
    return config


_FINISH_REASONS: dict[genai.GenerationFinishReason, FinishReason] = {
    genai.GenerationFinishReason.LENGTH: "length",
    genai.GenerationFinishReason.STOP: "stop",
}


class _Pipeline:
    """A pipeline, and the prompts that it read last. Its cache holds them, unless it was full since then."""

    def __init__(self, pipeline: genai.ContinuousBatchingPipeline, *, drafts: bool) -> None:
        self.genai, self.drafts = pipeline, drafts
        self.read: deque[NDArray[np.int64]] = deque(maxlen=RECENT_PROMPTS)

    @property
    def idle(self) -> bool:
        return not self.genai.has_non_finished_requests()

    def start(self, message: AddRequest, prompt: NDArray[np.int64]) -> "_RunningRequest":
        config = generation_config(message.params, message.eos, drafts=self.drafts)
        handle = self.genai.add_request(message.id, ov.Tensor(prompt[None]), config)
        return _RunningRequest(message.id, prompt, self, handle, FlushSchedule.of(message.params))


@dataclass(eq=False)
class _RunningRequest:
    """A request in progress, and its tokens since the last flush."""

    id: int
    prompt: NDArray[np.int64]
    pipeline: _Pipeline
    handle: GenerationHandle
    schedule: FlushSchedule
    ids: list[int] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    finish_reason: FinishReason | None = None
    reads_prompt: bool = True
    """Whether the prompt is still being computed, so that the cache does not hold all of it."""

    def read_tokens(self) -> None:
        """Collect the tokens that the last step generated. Raises MemoryError if openvino-genai has dropped the request."""
        while self.handle.can_read():
            if self.reads_prompt:
                self.reads_prompt = False
                self.pipeline.read.append(self.prompt)
            for output in self.handle.read().values():
                self.ids += output.generated_ids
                self.cumulative_logprob += sum(output.generated_log_probs)
                self.finish_reason = _FINISH_REASONS.get(output.finish_reason)
        status = self.handle.get_status()
        if not self.finish_reason and status != genai.GenerationStatus.RUNNING:
            raise MemoryError(f"openvino-genai dropped the request ({status.name}): its key-value cache is full")

    def should_flush(self, now: float, running: int) -> bool:
        """Whether to send the collected tokens now."""
        finished = self.finish_reason is not None
        return (bool(self.ids) or finished) and self.schedule.due(now, running, finished=finished)

    def flush(self) -> Output:
        """Return the collected tokens and start collecting anew."""
        output = Output(self.id, self.ids, self.cumulative_logprob, self.finish_reason)
        self.ids, self.cumulative_logprob = [], 0.0
        return output


class Batch:
    """The requests in progress and the pipelines that advance them together: one for all, or a second one for drafts from the prompt.

    openvino-genai takes a prefix from the cache once it has been computed. When questions about one passage arrive together, the first
    one reads the passage, and the others start after that.
    """

    def __init__(self, directory: Path, config: OpenVINOConfig) -> None:
        self._pipelines = [_Pipeline(pipeline, drafts=index > 0) for index, pipeline in enumerate(load_pipelines(directory, config))]
        self._config = config
        self._queue: dict[int, AddRequest] = {}
        """Requests that have not started."""
        self._requests: dict[int, _RunningRequest] = {}
        self._steps, self._reported_running = 0, 0

    @property
    def idle(self) -> bool:
        """Whether a step would have nothing to do."""
        return not self._queue and all(pipeline.idle for pipeline in self._pipelines)

    @property
    def running(self) -> int:
        """Number of requests in progress, queued ones included."""
        return len(self._requests) + len(self._queue)

    def add(self, message: AddRequest) -> None:
        """Add a request. It starts at the next step, or later if it must wait for another one."""
        self._queue[message.id] = message

    def cancel(self, id: int) -> None:
        """Drop a request at the next step, unless it has finished."""
        self._queue.pop(id, None)
        if request := self._requests.pop(id, None):
            request.handle.cancel()

    def step(self) -> StepReport | None:
        """Run one forward pass for the requests of each pipeline. Returns a report if there is anything to send."""
        failures = self._start_requests()
        for pipeline in self._pipelines:
            if not pipeline.idle:
                pipeline.genai.step()
        self._steps += 1
        for id, request in list(self._requests.items()):
            try:
                request.read_tokens()
            except Exception as error:  # affects this request only
                self.cancel(id)
                failures.append(_failure(id, error))
        now, running = time.monotonic(), len(self._requests)
        outputs = [request.flush() for request in self._requests.values() if request.should_flush(now, running)]
        if not (outputs or failures or self.running != self._reported_running):
            return None
        for output in outputs:
            if output.finish_reason:
                del self._requests[output.id]
        return self._report(outputs, failures)

    def _start_requests(self) -> list[RequestFailure]:
        """Start the queued requests that need not wait. Returns the failures of those that openvino-genai rejects."""
        failures = []
        for id, message in list(self._queue.items()):
            prompt, drafts = np.array(message.prompt), message.params.prompt_lookup and len(self._requests) < MAX_DRAFTING
            pipeline = self._pipelines[-1 if drafts else 0]
            if self._must_wait(prompt, pipeline):
                continue
            del self._queue[id]
            try:
                self._requests[id] = pipeline.start(message, prompt)
            except Exception as error:  # affects this request only
                failures.append(_failure(id, error))
        return failures

    def _must_wait(self, prompt: NDArray[np.int64], pipeline: _Pipeline) -> bool:
        """Return whether a request must wait because another one runs, or should because another one reads most of its prompt."""
        if self._config.one_at_a_time:
            # With max_num_seqs=1 instead, openvino-genai 2026.4 drops all waiting requests when the running one is cancelled.
            return not all(each.idle for each in self._pipelines)
        reading = [request.prompt for request in self._requests.values() if request.pipeline is pipeline and request.reads_prompt]
        if not (self._config.prefix_caching and reading):
            return False
        cached = max((common_prefix(prompt, other) for other in pipeline.read), default=0)
        soon_cached = max(common_prefix(prompt, other) for other in reading)
        return bool(soon_cached - cached >= max(BLOCK_TOKENS, len(prompt) / 2))

    def _report(self, outputs: list[Output], failures: list[RequestFailure]) -> StepReport:
        """Return a report with the current number of steps and running requests."""
        self._reported_running = self.running
        usage = [pipeline.genai.get_metrics().cache_usage / 100 for pipeline in self._pipelines] if self._requests else [0.0]
        return StepReport(self._steps, self._reported_running, outputs, failures, max(usage))


def _failure(id: int, error: Exception) -> RequestFailure:
    return RequestFailure(id, str(error), busy=is_out_of_memory(error))


def common_prefix(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Return the number of tokens with which both prompts begin."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
