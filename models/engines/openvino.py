"""The CPU engine: openvino-genai's continuous batching, stepped by one thread; requests join and leave between steps."""

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import openvino_genai as genai
from openvino_genai.py_openvino_genai import GenerationHandle

from models.base import FinishReason, SamplingParams, Token
from models.engines import EngineStopped
from models.engines.text import IncrementalText, ModelLimits


@dataclass(eq=False)
class _Request:
    input_ids: object
    config: genai.GenerationConfig
    text: IncrementalText
    loop: asyncio.AbstractEventLoop
    tokens: asyncio.Queue[Token | Exception] = field(default_factory=asyncio.Queue)
    handle: GenerationHandle | None = None
    cancelled: bool = False
    ended: bool = False

    def cancel(self) -> None:
        """Make the pipeline drop the request at its next step."""
        if self.handle:
            self.handle.cancel()

    def deliver(self, token: Token | Exception) -> None:
        """Hand a token to the waiting coroutine, from the engine's thread."""
        self.ended = isinstance(token, Exception) or token.finish_reason is not None
        try:
            self.loop.call_soon_threadsafe(self.tokens.put_nowait, token)
        except RuntimeError:  # the event loop is closed: nobody waits any more
            self.cancelled = True


class OpenVINOEngine:
    """Runs the IR that `training/export.py` makes.

    `precision` is the arithmetic's: `default` lets OpenVINO choose (bf16 where the processor has it), `f32` gives
    what the reference gives. `cache_gb` bounds the memory of the key-value cache.
    """

    def __init__(self, directory: Path, precision: Literal["default", "f32"] = "default", cache_gb: int = 1) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = cache_gb
        scheduler.enable_prefix_caching = True  # many questions on one passage read it once
        properties = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"} if precision == "f32" else {}
        self._pipeline = genai.ContinuousBatchingPipeline(directory, scheduler, "CPU", properties, {})
        self._tokenizer = self._pipeline.get_tokenizer()
        self._limits = ModelLimits(directory)
        self._arrivals: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._stopped: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="openvino-engine", daemon=True)
        self._thread.start()

    @property
    def context_length(self) -> int:
        """See `Engine`."""
        return self._limits.context_length

    async def stream(self, prompt: str, params: SamplingParams) -> AsyncGenerator[Token]:
        """See `Engine`."""
        self._refuse_if_stopped()
        input_ids = self._tokenizer.encode(prompt).input_ids
        ids = [int(id) for id in input_ids.data[0]]
        self._limits.check(len(ids), params.length)
        text = IncrementalText(ids, self._tokenizer.decode, self._limits.eos)
        request = _Request(input_ids, self._config(params), text, asyncio.get_running_loop())
        self._submit(request)
        try:
            while True:
                token = await request.tokens.get()
                if isinstance(token, Exception):
                    raise token
                yield token
                if token.finish_reason:
                    return
        finally:
            request.cancelled = True

    def close(self) -> None:
        """See `Engine`.

        The pipeline ends in the thread that calls this, which should be the one that made it: OpenVINO's CPU plugin gives the thread
        that loads it an alternate signal stack, frees it when it ends, and from another thread leaves the first one with what is freed,
        so that the next signal would crash the process.
        """
        self._arrivals.put(None)
        self._thread.join()
        self.__dict__.pop("_pipeline", None)
        self.__dict__.pop("_tokenizer", None)

    def _config(self, params: SamplingParams) -> genai.GenerationConfig:
        config = genai.GenerationConfig(max_new_tokens=params.length, stop_token_ids=set(self._limits.eos), logprobs=1)
        if not params.greedy:
            config.do_sample = True
            config.temperature, config.top_p, config.rng_seed = params.temperature, params.top_p, params.seed
            if params.top_k:
                config.top_k = params.top_k
        return config

    def _submit(self, request: _Request) -> None:
        with self._lock:  # so that no request arrives after the thread has failed those that wait
            self._refuse_if_stopped()
            self._arrivals.put(request)

    def _refuse_if_stopped(self) -> None:
        if self._stopped:
            raise EngineStopped(str(self._stopped))

    def _run(self) -> None:
        running: list[_Request] = []
        error: Exception = EngineStopped("the engine was closed")
        try:
            while self._admit(running, wait=not self._pipeline.has_non_finished_requests()):
                self._pipeline.step()
                running = [request for request in running if self._forward(request)]
            for request in running:
                request.cancel()
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()  # frees what they hold
        except Exception as cause:  # whatever it is, those who wait must hear of it
            error = EngineStopped(f"the engine has failed: {cause}")
            error.__cause__ = cause
        with self._lock:
            self._stopped = error
        while not self._arrivals.empty():
            if arrived := self._arrivals.get():
                running.append(arrived)
        for request in running:
            request.deliver(error)

    def _admit(self, running: list[_Request], wait: bool) -> bool:
        """Take in what has arrived, waiting for it if told so, and drop what was cancelled; False ends the thread."""
        while wait or not self._arrivals.empty():
            request = self._arrivals.get()
            if request is None:
                return False
            wait = False
            try:
                request.handle = self._pipeline.add_request(next(self._ids), request.input_ids, request.config)
            except Exception as error:  # its own parameters are wrong: no other request is concerned
                request.deliver(error)
            else:
                running.append(request)
        for request in [request for request in running if request.cancelled]:
            request.cancel()
            running.remove(request)
        return True

    @staticmethod
    def _forward(request: _Request) -> bool:
        """Pass on what the last step generated for `request`; whether it goes on."""
        handle = request.handle
        assert handle is not None
        while handle.can_read():
            for output in handle.read().values():
                reason = _FINISH.get(output.finish_reason)
                for at, (id, logprob) in enumerate(zip(output.generated_ids, output.generated_log_probs, strict=True), start=1):
                    request.deliver(request.text.token(id, logprob, reason if at == len(output.generated_ids) else None))
        status = handle.get_status()
        if status != genai.GenerationStatus.RUNNING and not request.ended:  # IGNORED, so far as is known
            request.deliver(EngineStopped(f"the request was given up ({status.name}): the key-value cache may be full"))
        return not request.ended


_FINISH: dict[genai.GenerationFinishReason, FinishReason] = {
    genai.GenerationFinishReason.LENGTH: "length",
    genai.GenerationFinishReason.STOP: "stop",
}
