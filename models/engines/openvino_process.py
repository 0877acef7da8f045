"""The process in which openvino-genai batches: `python -m models.engines.openvino_process FD`, started by `openvino.py`.

`ContinuousBatchingPipeline.step()` holds the interpreter's lock (openvino-genai 2026.4): in the service's own process nothing else would
be answered for the length of a step. Here a failure, be it a crash, stays out of the service too.

FD is a connection. What comes first are the directory and the configuration; then `Add` and `Cancel`, and None to end. What goes back
is `Ready` or `Failure`, then a `Report` after each step, and a `Failure` in the end if there was one.
"""

import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
from openvino_genai.py_openvino_genai import GenerationHandle

from models.base import FinishReason, SamplingParams
from models.engines.openvino_messages import Add, Cancel, Failure, Generated, OpenVINOConfig, Ready, Report


def load_pipeline(directory: Path, config: OpenVINOConfig) -> genai.ContinuousBatchingPipeline:
    """openvino-genai's pipeline on the IR of an artifact."""
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = config.cache_gb
    scheduler.enable_prefix_caching = config.prefix_caching
    scheduler.max_num_batched_tokens = config.step_tokens
    return genai.ContinuousBatchingPipeline(directory / "openvino", scheduler, "CPU", dict(config.properties), {})


def generation_config(params: SamplingParams, eos: frozenset[int]) -> genai.GenerationConfig:
    """What `params` are for openvino-genai; one of `eos` ends the text. Stop strings are not its business."""
    config = genai.GenerationConfig(max_new_tokens=params.length, stop_token_ids=set(eos), logprobs=int(params.logprobs))
    if not params.greedy:
        config.do_sample = True
        config.temperature, config.top_p, config.rng_seed = params.temperature, params.top_p, params.seed
        if params.top_k:
            config.top_k = params.top_k
    return config


class Batch:
    """The requests under way, and the pipeline that steps them together."""

    def __init__(self, directory: Path, config: OpenVINOConfig) -> None:
        self._pipeline = load_pipeline(directory, config)
        self._requests: dict[int, GenerationHandle] = {}
        self.steps = 0

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._pipeline.has_non_finished_requests()

    @property
    def running(self) -> int:
        """How many requests are under way."""
        return len(self._requests)

    def add(self, request: Add) -> None:
        """Take a request in. Raises whatever openvino-genai has against it."""
        config = generation_config(request.params, request.eos)
        self._requests[request.id] = self._pipeline.add_request(request.id, ov.Tensor(np.array([request.prompt])), config)

    def cancel(self, id: int) -> None:
        """Drop a request at the next step, unless it has ended."""
        if handle := self._requests.pop(id, None):
            handle.cancel()

    def step(self) -> Report:
        """One forward pass for all, and what came of it."""
        self._pipeline.step()
        self.steps += 1
        generated: list[Generated] = []
        failures: list[tuple[int, str]] = []
        for id, handle in list(self._requests.items()):
            try:
                ended = self._read(id, handle, generated)
            except Exception as error:  # no other request is concerned
                self.cancel(id)
                failures.append((id, str(error)))
            else:
                if ended:
                    del self._requests[id]
        return Report(self.steps, self.running, generated, failures)

    def _read(self, id: int, handle: GenerationHandle, generated: list[Generated]) -> bool:
        """Append what a request has generated; returns whether it has ended."""
        reason = None
        while handle.can_read():
            for output in handle.read().values():
                *earlier, last = zip(output.generated_ids, output.generated_log_probs, strict=True)
                reason = _FINISH.get(output.finish_reason)
                generated += [(id, *each, None) for each in earlier]
                generated.append((id, *last, reason))
        status = handle.get_status()
        if not reason and status != genai.GenerationStatus.RUNNING:
            raise RuntimeError(f"openvino-genai gave the request up ({status.name}): the key-value cache may be full")
        return reason is not None


_FINISH: dict[genai.GenerationFinishReason, FinishReason] = {
    genai.GenerationFinishReason.LENGTH: "length",
    genai.GenerationFinishReason.STOP: "stop",
}


def run(batch: Batch, connection: Connection) -> None:
    """Step as long as there is something to do, and wait for it where there is not, until None comes. Raises EOFError when nobody is
    there any more.
    """
    while True:
        while batch.idle or connection.poll():
            message: Add | Cancel | None = connection.recv()
            if message is None:
                return
            if isinstance(message, Cancel):
                batch.cancel(message.id)
                continue
            try:
                batch.add(message)
            except Exception as error:  # its own parameters are wrong: no other request is concerned
                connection.send(Report(batch.steps, batch.running, [], [(message.id, str(error))]))
        connection.send(batch.step())


def main(descriptor: int) -> None:
    """Serve until the other end of the connection says so, or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the service, which then answers what it has begun
        signal.signal(number, signal.SIG_IGN)
    with Connection(descriptor) as connection:
        try:
            directory, config = connection.recv()
            batch = Batch(directory, config)
            connection.send(Ready())
            run(batch, connection)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # whatever it is, those who wait must hear of it
            connection.send(Failure(str(error)))
            raise


if __name__ == "__main__":
    main(int(sys.argv[1]))
