"""The CUDA engine: transformers' continuous batching, which draws each request's tokens with its own parameters and seed.

https://huggingface.co/docs/transformers/main/continuous_batching
"""

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import FutureRequestState, GenerationOutput, RequestStatus

from models.base import FinishReason, Prompt, SamplingParams, Token
from models.engines import EngineStopped
from models.engines.tokenization import IncrementalDetokenizer, ModelLimits, encode, load_tokenizer
from models.engines.transformers_logprobs import Scoring, TransformersScorer

CPU_CACHE_PAGES = 64
"""Of 256 tokens each. On CUDA transformers takes what memory there is."""
START_SECONDS = 60
LOOK_SECONDS = 1
"""How often a request that waits looks whether the manager is still there."""


class Sampling(ContinuousBatchingLogitsProcessorList):
    """Draws the next token of every request in a batch, by its own temperature, top-k, top-p and generator, where transformers has one
    random generator for all. Tensors alone are involved, so that a CUDA graph can hold it.

    The numbers of a step are four rows of the storage that transformers provides, floats seen as integers; `draw` gives the
    tokens and their log-probabilities under the model, which transformers' own sampling would have after temperature and top-p.
    """

    def __init__(self) -> None:
        super().__init__(LogitsProcessorList())
        self.tensors_required, self.do_processing = 4, True
        self._drawn: tuple[torch.Tensor, torch.Tensor] | None = None

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Accept what `TransformersEngine` sends."""

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Greedy, for rows that no request has."""
        int32_tensor[:4] = _as_integers([[1.0], [1.0], [1.0], [0.0]]).to(int32_tensor.device)

    def prepare_tensor_args(self, requests_in_batch: list[FutureRequestState], arg_storage: torch.Tensor) -> torch.Tensor:
        """Put each request's temperature, top-k, top-p and its next random number into the storage, shape (4, requests)."""
        wanted = [future.state.logit_processor_kwargs for future in requests_in_batch if future.has_new_token]
        rows = [
            [each["params"].temperature or 1.0 for each in wanted],
            [float(1 if each["params"].greedy else each["params"].top_k) for each in wanted],
            [each["params"].top_p for each in wanted],
            [float(each["generator"].random(dtype=np.float32)) for each in wanted],
        ]
        arg_storage[:4, : len(wanted)] = _as_integers(rows).to(arg_storage.device)
        return arg_storage

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """From logits, shape (requests, vocabulary), draw a token each. Gives the logits back as they are."""
        temperature, top_k, top_p, uniform = logits_processor_args[:4, : len(scores), None].view(torch.float32)
        logprobs = scores.log_softmax(-1)
        weights, order = (logprobs / temperature).softmax(-1).sort(descending=True, stable=True)
        rank = torch.arange(weights.shape[1], device=weights.device)
        weights = weights.masked_fill((rank >= top_k) & (top_k > 0), 0.0)
        mass = weights.cumsum(-1)
        weights = weights.masked_fill(mass - weights >= top_p * mass[:, -1:], 0.0)  # keeps the one that reaches top_p
        mass = weights.cumsum(-1)
        drawn = (mass <= uniform * mass[:, -1:]).sum(-1, keepdim=True).clamp(max=weights.shape[1] - 1)
        tokens = order.gather(-1, drawn)
        self._drawn = tokens[:, 0], logprobs.gather(-1, tokens)[:, 0]
        return scores

    def draw(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:  # noqa: ARG002
        """In the place of `ModelRunner._sample`: what was drawn, and its log-probability in the bits of an integer."""
        assert self._drawn is not None
        tokens, logprobs = self._drawn
        output_ids[0, : len(tokens)].copy_(tokens)
        output_ids[1, : len(tokens)].copy_(logprobs.view(torch.int32))


def _as_integers(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(torch.int32)


class Router(OutputRouter):
    """Hands outputs to the requests that wait for them, each in its own event loop; what nobody waits for any more is dropped."""

    def deliver(self, output: GenerationOutput) -> None:
        """See `OutputRouter`."""
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        """See `OutputRouter`."""
        calls: dict[asyncio.AbstractEventLoop, list[tuple[Callable[[GenerationOutput], None], GenerationOutput]]] = defaultdict(list)
        with self._lock:
            for output in outputs:
                if entry := self.result_handlers.get(output.request_id):
                    calls[entry[1]].append((entry[0], output))
        for loop, batch in calls.items():
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(_call, batch)

    def forget(self, id: str) -> None:
        """A request has ended or was left."""
        with self._lock:
            self.result_handlers.pop(id, None)


def _call(batch: list[tuple[Callable[[GenerationOutput], None], GenerationOutput]]) -> None:
    for handle, output in batch:
        handle(output)


class TransformersEngine:
    """Runs a Hugging Face directory: in bf16 on CUDA, in fp32 on a CPU, where it is for comparison alone."""

    def __init__(self, directory: Path) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.tokenizer, self.limits = load_tokenizer(directory), ModelLimits(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        model.to(device)
        config = ContinuousBatchingConfig(return_logprobs=True, num_blocks=None if device.type == "cuda" else CPU_CACHE_PAGES)
        self._manager = model.init_continuous_batching(GenerationConfig(eos_token_id=-1, do_sample=False), config)
        sampling = Sampling()
        self._manager.logit_processor = sampling
        self._manager.output_router = self._router = Router()
        self._manager.start()
        deadline = time.monotonic() + START_SECONDS
        while self._manager.batch_processor is None:  # the thread makes it
            if not self.alive or time.monotonic() > deadline:
                self.close()
                raise EngineStopped(f"the engine cannot start: {self._manager.background_thread_status.fatal_error}")
            time.sleep(0.01)
        self._manager.batch_processor.model_runner._sample = sampling.draw
        self._ids = itertools.count()
        self._scoring = Scoring(directory, device)

    @property
    def alive(self) -> bool:
        """See `Engine`."""
        return bool(self._manager.is_running()) and self._manager.background_thread_status.can_accept_new_requests() is None

    @property
    def running(self) -> int:
        """See `Engine`."""
        return len(self._router.result_handlers)

    @property
    def steps(self) -> int:
        """See `Engine`."""
        return int(self._manager.current_batch)

    def scorer(self) -> TransformersScorer:
        """See `Engine`."""
        return TransformersScorer(self._scoring)

    async def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """See `Engine`."""
        ids = encode(self.tokenizer, prompt)
        self.limits.check(len(ids), params.length)
        text = IncrementalDetokenizer(self.tokenizer, ids, self.limits.eos)
        outputs: asyncio.Queue[GenerationOutput] = asyncio.Queue()
        id, seen, output = str(next(self._ids)), 0, None
        self._manager.register_result_handler(id, outputs.put_nowait)
        drawing = {"params": params, "generator": np.random.default_rng(params.seed)}
        eos = sorted(self.limits.eos)
        try:
            if not self._manager.add_request(ids, id, params.length, streaming=True, eos_token_id=eos, **drawing):
                raise EngineStopped("the engine was closed or has failed")
            while output is None or not output.is_finished():
                output = await self._next(outputs)
                if output.status == RequestStatus.FAILED:
                    raise EngineStopped("the engine was closed or has failed") from RuntimeError(output.error)
                for at in range(seen, len(output.generated_tokens)):
                    token = output.generated_tokens[at]
                    ended: FinishReason | None = "stop" if token in self.limits.eos else "length" if at + 1 == params.length else None
                    yield text.token([token], output.logprobs[at], ended)
                seen = len(output.generated_tokens)
        finally:
            self._router.forget(id)
            if output is None or not output.is_finished():
                self._manager.cancel_request(id)

    async def _next(self, outputs: "asyncio.Queue[GenerationOutput]") -> GenerationOutput:
        """What comes next. A manager that fails while it takes a request in may forget it: so look whether there is one."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    return await outputs.get()
            except TimeoutError:
                if not self.alive and outputs.empty():
                    raise EngineStopped("the engine was closed or has failed") from None

    def close(self) -> None:
        """See `Engine`."""
        self._manager.stop(block=True, hard_stop=True)
