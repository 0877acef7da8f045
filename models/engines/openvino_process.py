"""The process that runs openvino-genai: `python -m models.engines.openvino_process FD`, started by `openvino.py`.

`ContinuousBatchingPipeline.step()` holds Python's global interpreter lock (openvino-genai 2026.4). In the service's own process, nothing
else would be answered during a step. A process of its own also keeps a crash out of the service.
"""

import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
from openvino_genai.py_openvino_genai import GenerationHandle

from models.base import FinishReason, SamplingParams
from models.engines.openvino import OpenVINOConfig
from models.engines.openvino_logprobs import read_logprobs
from models.engines.openvino_scoring import ScoringModel, is_out_of_memory
from models.engines.spans.openvino import SpanTask
from models.engines.supervision.flushing import FlushSchedule
from models.engines.supervision.loop import main
from models.engines.supervision.messages import AddRequest, Cancel, FindSpans, Output, ReadLogprobs, Reply, RequestFailure, StepReport
from models.engines.tokenization import ModelLimits

BLOCK_TOKENS = 32
"""Tokens in a block of the key-value cache of OpenVINO's CPU plugin."""


def load_pipeline(directory: Path, config: OpenVINOConfig) -> genai.ContinuousBatchingPipeline:
    """Load openvino-genai's pipeline for the IR of an artifact.

    Before a product with int8 weights, activations are quantized to int8 as well, in groups that share a scale. Groups as wide as the
    model allows make that a quarter faster than OpenVINO's default of 32.
    """
    scheduler = genai.SchedulerConfig()
    limits = ModelLimits(directory)
    tokens = int(config.cache_contexts * limits.context_length)
    if tokens * token_cache_bytes(directory) < config.cache_gb * 2**30:
        scheduler.num_kv_blocks = max(1, tokens // BLOCK_TOKENS)
    else:
        scheduler.cache_size = config.cache_gb
    scheduler.enable_prefix_caching = config.prefix_caching
    scheduler.max_num_batched_tokens = config.step_tokens
    if config.one_at_a_time:
        scheduler.dynamic_split_fuse = False
        scheduler.max_num_batched_tokens = limits.context_length
    properties = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(activation_group_size(directory))} | dict(config.properties)
    return genai.ContinuousBatchingPipeline(directory / "openvino", scheduler, "CPU", properties, {})


def token_cache_bytes(directory: Path) -> int:
    """Return the size of a token's keys and values in an 8-bit cache, without their scales."""
    config = json.loads((directory / "config.json").read_text())
    layers, heads = config.get("num_hidden_layers") or config["n_layer"], config.get("num_attention_heads") or config["n_head"]
    head_width = config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads
    return int(2 * layers * config.get("num_key_value_heads", heads) * head_width)


def activation_group_size(directory: Path) -> int:
    """Return the largest group size that divides the width of every matrix product of a model."""
    config = json.loads((directory / "config.json").read_text())
    width = config.get("hidden_size") or config["n_embd"]
    return math.gcd(width, config.get("intermediate_size") or config.get("n_inner") or 4 * width)


def generation_config(params: SamplingParams, eos: frozenset[int]) -> genai.GenerationConfig:
    """Translate `params` for openvino-genai. A token in `eos` ends the text; stop strings are left to the service."""
    config = genai.GenerationConfig(max_new_tokens=params.length, stop_token_ids=set(eos), logprobs=int(params.cumulative_logprob))
    if not params.greedy:
        config.do_sample = True
        config.temperature, config.rng_seed = params.temperature, params.seed
        config.top_p = max(params.top_p, float(np.finfo(np.float32).tiny))  # as a float32, it must not round to 0
        if params.top_k:
            config.top_k = params.top_k
    return config


_FINISH_REASONS: dict[genai.GenerationFinishReason, FinishReason] = {
    genai.GenerationFinishReason.LENGTH: "length",
    genai.GenerationFinishReason.STOP: "stop",
}


@dataclass(eq=False)
class _RunningRequest:
    """A request in progress, and its tokens since the last flush."""

    id: int
    handle: GenerationHandle
    schedule: FlushSchedule
    ids: list[int] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    finish_reason: FinishReason | None = None

    def read_tokens(self) -> None:
        """Collect the tokens that the last step generated. Raises MemoryError if openvino-genai has dropped the request."""
        while self.handle.can_read():
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
    """The requests in progress and the pipeline that advances them together."""

    def __init__(self, directory: Path, config: OpenVINOConfig) -> None:
        self._pipeline, self._one_at_a_time = load_pipeline(directory, config), config.one_at_a_time
        self._requests: dict[int, _RunningRequest] = {}
        # With max_num_seqs=1 instead of this queue, openvino-genai 2026.4 drops all waiting requests when the running one is cancelled.
        self._queue: dict[int, AddRequest] = {}
        self._steps, self._reported_running = 0, 0

    @property
    def idle(self) -> bool:
        """Whether a step would have nothing to do."""
        return not (self._pipeline.has_non_finished_requests() or self._queue)

    @property
    def running(self) -> int:
        """Number of requests in progress, queued ones included."""
        return len(self._requests) + len(self._queue)

    def add(self, message: AddRequest) -> None:
        """Add a request. Raises an exception of openvino-genai if it rejects the request."""
        if self._one_at_a_time and not self.idle:
            self._queue[message.id] = message
        else:
            self._start(message)

    def _start(self, message: AddRequest) -> None:
        params = message.params
        prompt = ov.Tensor(np.array([message.prompt]))
        handle = self._pipeline.add_request(message.id, prompt, generation_config(params, message.eos))
        self._requests[message.id] = _RunningRequest(message.id, handle, FlushSchedule.of(params))

    def cancel(self, id: int) -> None:
        """Drop a request at the next step, unless it has finished."""
        self._queue.pop(id, None)
        if request := self._requests.pop(id, None):
            request.handle.cancel()

    def step(self) -> StepReport | None:
        """Run one forward pass for all requests. Returns a report if there is anything to send."""
        failures: list[RequestFailure] = []
        if self._queue and not self._pipeline.has_non_finished_requests():
            id = next(iter(self._queue))
            try:
                self._start(self._queue.pop(id))
            except Exception as error:  # affects this request only
                failures.append(_failure(id, error))
        self._pipeline.step()
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
        return self.report(outputs, failures)

    def report(self, outputs: list[Output], failures: list[RequestFailure]) -> StepReport:
        """Return a report with the current number of steps and running requests."""
        self._reported_running = self.running
        cache_usage = self._pipeline.get_metrics().cache_usage / 100 if self._requests else 0.0
        return StepReport(self._steps, self._reported_running, outputs, failures, cache_usage)


def _failure(id: int, error: Exception) -> RequestFailure:
    return RequestFailure(id, str(error), busy=is_out_of_memory(error))


class OpenVINOStepper:
    """The batch, and beside it the model that computes probabilities. See `Stepper`."""

    def __init__(self, directory: Path, config: OpenVINOConfig) -> None:
        self.batch, self.scoring = Batch(directory, config), ScoringModel(directory, config.step_tokens)

    @property
    def idle(self) -> bool:
        """See `Stepper`."""
        return self.batch.idle and self.scoring.idle

    @property
    def wakeup(self) -> int:
        """See `Stepper`."""
        return self.scoring.wakeup

    def handle(self, message: AddRequest | ReadLogprobs | FindSpans | Cancel) -> Iterable[StepReport | Reply]:
        """See `Stepper`."""
        if isinstance(message, Cancel):
            self.batch.cancel(message.id)
            self.scoring.cancel(message.id)
        elif isinstance(message, ReadLogprobs):
            read_logprobs(self.scoring, message)
        elif isinstance(message, FindSpans):
            self.scoring.add(message.id, SpanTask(message))
        else:
            try:
                self.batch.add(message)
            except Exception as error:  # affects this request only
                yield self.batch.report([], [_failure(message.id, error)])

    def step(self) -> Iterable[StepReport | Reply]:
        """See `Stepper`."""
        if not self.batch.idle and (report := self.batch.step()):
            yield report
        if reply := self.scoring.step():
            yield reply


def load(start_message: tuple[Path, OpenVINOConfig]) -> OpenVINOStepper:
    """Load the model."""
    return OpenVINOStepper(*start_message)


if __name__ == "__main__":
    main(sys.argv, load)
