"""The process in which openvino-genai batches: `python -m models.engines.openvino_process FD`, started by `openvino.py`.

`ContinuousBatchingPipeline.step()` holds the interpreter's lock (openvino-genai 2026.4): in the service's own process nothing else would
be answered for the length of a step. Here a failure, be it a crash, stays out of the service too.

FD is a connection. What comes first are the directory and the configuration; then `Add`, `Read` and `Cancel`, and None to end. What goes
back is `Ready` or `Failure`, then a `Report` whenever there is something to tell, `Scores` for each `Read`, and a `Failure` in the end if
there was one.
"""

import json
import math
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
from openvino_genai.py_openvino_genai import GenerationHandle

from models.base import FinishReason, SamplingParams
from models.engines.openvino_logprobs import Scoring
from models.engines.openvino_messages import Add, Cancel, Failure, Generated, OpenVINOConfig, Read, Ready, Report, Scores
from models.engines.tokenization import ModelLimits


def load_pipeline(directory: Path, config: OpenVINOConfig) -> genai.ContinuousBatchingPipeline:
    """openvino-genai's pipeline on the IR of an artifact.

    Where the weights are int8, activations become int8 too before they meet them, each group of a row by its own scale. OpenVINO's groups
    of 32 cost a quarter of the speed of groups that are as wide as can be.
    """
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = config.cache_gb
    scheduler.enable_prefix_caching = config.prefix_caching
    scheduler.max_num_batched_tokens = config.step_tokens
    if config.one_at_a_time:  # with split prompts, openvino-genai 2026.4 does not look at max_num_seqs
        scheduler.dynamic_split_fuse, scheduler.max_num_seqs = False, 1
        scheduler.max_num_batched_tokens = ModelLimits(directory).context_length
    properties = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(activation_group(directory))} | dict(config.properties)
    return genai.ContinuousBatchingPipeline(directory / "openvino", scheduler, "CPU", properties, {})


def activation_group(directory: Path) -> int:
    """The widest group that all matrix products of a model can have."""
    config = json.loads((directory / "config.json").read_text())
    width = config.get("hidden_size") or config["n_embd"]
    return math.gcd(width, config.get("intermediate_size") or config.get("n_inner") or 4 * width)


def generation_config(params: SamplingParams, eos: frozenset[int]) -> genai.GenerationConfig:
    """What `params` are for openvino-genai; one of `eos` ends the text. Stop strings are not its business."""
    config = genai.GenerationConfig(max_new_tokens=params.length, stop_token_ids=set(eos), logprobs=int(params.logprobs))
    if not params.greedy:
        config.do_sample = True
        config.temperature, config.rng_seed = params.temperature, params.seed
        config.top_p = max(params.top_p, float(np.finfo(np.float32).tiny))  # what it holds as a float32 must not become 0
        if params.top_k:
            config.top_k = params.top_k
    return config


UNHURRIED = 12
"""Requests that are told of as often as they want to be. Of more each is told less often, in proportion: else what is sent to
each would take a growing share of the processors that generate, while each gets fewer tokens anyway.
"""


@dataclass(eq=False)
class _Request:
    """One that is under way, and what it has generated since it was last told of."""

    handle: GenerationHandle
    interval: float
    told: float | None
    """When it was last told of; None: the first token is told of at once."""
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finish_reason: FinishReason | None = None

    def read(self) -> None:
        """Take what is there."""
        while self.handle.can_read():
            for output in self.handle.read().values():
                self.ids += output.generated_ids
                self.logprob += sum(output.generated_log_probs)
                self.finish_reason = _FINISH.get(output.finish_reason)
        status = self.handle.get_status()
        if not self.finish_reason and status != genai.GenerationStatus.RUNNING:
            raise RuntimeError(f"openvino-genai gave the request up ({status.name}): the key-value cache may be full")

    def due(self, now: float, pace: float) -> bool:
        """Whether it has something to tell that does not wait: its first token, its end, and what is there at every `pace`-th interval of
        the clock, at which all of the same interval are told of together: one message wakes the service once.
        """
        if self.finish_reason:
            return True
        if not self.ids or self.told is None or not self.interval:
            return bool(self.ids)
        return now // (pace * self.interval) > self.told // (pace * self.interval)

    def tell(self, id: int, now: float) -> Generated:
        """What it has generated, which begins anew."""
        generated = id, self.ids, self.logprob, self.finish_reason
        self.ids, self.logprob, self.told = [], 0.0, now
        return generated


_FINISH: dict[genai.GenerationFinishReason, FinishReason] = {
    genai.GenerationFinishReason.LENGTH: "length",
    genai.GenerationFinishReason.STOP: "stop",
}


class Batch:
    """The requests under way, and the pipeline that steps them together."""

    def __init__(self, directory: Path, config: OpenVINOConfig) -> None:
        self._pipeline = load_pipeline(directory, config)
        self._requests: dict[int, _Request] = {}
        self._steps, self._told = 0, 0

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._pipeline.has_non_finished_requests()

    def add(self, request: Add) -> None:
        """Take a request in. Raises whatever openvino-genai has against it."""
        params = request.params
        handle = self._pipeline.add_request(request.id, ov.Tensor(np.array([request.prompt])), generation_config(params, request.eos))
        interval = 0.0 if params.stop else params.interval
        self._requests[request.id] = _Request(handle, interval, told=0.0 if math.isinf(interval) else None)

    def cancel(self, id: int) -> None:
        """Drop a request at the next step, unless it has ended."""
        if request := self._requests.pop(id, None):
            request.handle.cancel()

    def step(self) -> Report | None:
        """One forward pass for all, and what there is to tell."""
        self._pipeline.step()
        self._steps += 1
        failures = []
        for id, request in list(self._requests.items()):
            try:
                request.read()
            except Exception as error:  # no other request is concerned
                self.cancel(id)
                failures.append((id, str(error)))
        now, pace = time.monotonic(), max(1.0, len(self._requests) / UNHURRIED)
        generated = [request.tell(id, now) for id, request in self._requests.items() if request.due(now, pace)]
        if generated or failures or len(self._requests) != self._told:
            for id, _, _, finish_reason in generated:
                if finish_reason:
                    del self._requests[id]
            return self.report(generated, failures)
        return None

    def report(self, generated: list[Generated], failures: list[tuple[int, str]]) -> Report:
        """What there is to tell, and how things stand."""
        self._told = len(self._requests)
        return Report(self._steps, self._told, generated, failures)


def run(batch: Batch, scoring: Scoring, connection: Connection) -> None:
    """Step as long as there is something to do, and wait for it where there is not, until None comes. Raises EOFError when nobody is
    there any more.
    """
    arrivals = select.poll()  # at each step: `Connection.poll` makes a new selector each time
    arrivals.register(connection, select.POLLIN)
    while True:
        while (batch.idle and scoring.idle) or arrivals.poll(0):
            message: Add | Read | Cancel | None = connection.recv()
            if message is None:
                return
            try:
                if isinstance(message, Cancel):
                    batch.cancel(message.id)
                    scoring.forget(message.id)
                elif isinstance(message, Read):
                    scoring.add(message)
                else:
                    batch.add(message)
            except Exception as error:  # its own parameters are wrong: no other request is concerned
                failed = str(error)
                connection.send(Scores(message.id, failed) if isinstance(message, Read) else batch.report([], [(message.id, failed)]))
        if not batch.idle and (report := batch.step()):
            connection.send(report)
        if scores := scoring.step():
            connection.send(scores)


def main(descriptor: int) -> None:
    """Serve until the other end of the connection says so, or is gone."""
    with Connection(descriptor) as connection:
        try:
            directory, config = connection.recv()
            batch, scoring = Batch(directory, config), Scoring(directory, config.step_tokens)
            connection.send(Ready())
            run(batch, scoring, connection)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # whatever it is, those who wait must hear of it
            connection.send(Failure(str(error)))
            raise


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the service, which then answers what it has begun
        signal.signal(number, signal.SIG_IGN)
    main(int(sys.argv[1]))
