"""The CUDA engine: transformers' continuous batching, extended so that each request samples with its own parameters and seed.

https://huggingface.co/docs/transformers/main/continuous_batching
"""

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import FutureRequestState, GenerationOutput, RequestStatus

from models.base import FinishReason, Prompt, SamplingParams, Token
from models.engines import EngineStopped, ScoredSpan
from models.engines.spans.transformers import best_spans
from models.engines.tokenization import IncrementalDetokenizer, ModelLimits, encode, load_tokenizer
from models.engines.transformers_logprobs import LogprobModel, TransformersLogprobReader
from models.spans import SpanTrie

CPU_CACHE_PAGES = 64
"""Size of the key-value cache on a CPU, in pages of 256 tokens."""
CUDA_BYTES = 16 * 2**30
"""What the key-value cache and its masks take on CUDA, at most: room for hundreds of requests to a model of this size. transformers would
take 80 % of the card, also where a trainer or another process needs the memory."""
START_SECONDS = 60
"""How long to wait for the manager's thread to start."""
ALIVE_CHECK_SECONDS = 1
"""How often a waiting request checks that the manager still runs."""
STOPPED = "the engine was closed or has failed"


class Sampling(ContinuousBatchingLogitsProcessorList):
    """Samples the next token of every request in a batch with the request's own temperature, top-k, top-p and random generator.

    transformers has one random generator for all requests, and its log-probabilities are those after temperature and top-p; here
    they are the model's own. Only tensors are involved, so that a CUDA graph can capture the sampling. The parameters of a step are four
    rows of the storage that transformers provides: floats, stored in the bits of integers.
    """

    def __init__(self) -> None:
        super().__init__(LogitsProcessorList())
        self.tensors_required, self.do_processing = 4, True
        self._sampled: tuple[torch.Tensor, torch.Tensor] | None = None

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Accept the arguments that `TransformersEngine` passes."""

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Use greedy decoding in slots of the batch without a request."""
        int32_tensor[:4] = _float_bits([[1.0], [1.0], [1.0], [0.0]]).to(int32_tensor.device)

    def prepare_tensor_args(self, requests_in_batch: list[FutureRequestState], arg_storage: torch.Tensor) -> torch.Tensor:
        """Store each request's temperature, top-k, top-p and next random number, shape (4, requests)."""
        arguments = [future.state.logit_processor_kwargs for future in requests_in_batch if future.has_new_token]
        rows = [
            [each["params"].temperature or 1.0 for each in arguments],
            [float(1 if each["params"].greedy else each["params"].top_k) for each in arguments],
            [each["params"].top_p for each in arguments],
            [float(each["generator"].random(dtype=np.float32)) for each in arguments],
        ]
        arg_storage[:4, : len(arguments)] = _float_bits(rows).to(arg_storage.device)
        return arg_storage

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Sample a token for each row of logits, shape (requests, vocabulary), for `write_sampled`. Returns the logits unchanged."""
        temperature, top_k, top_p, uniform = logits_processor_args[:4, : len(scores), None].view(torch.float32)
        logprobs = scores.log_softmax(-1)
        weights, order = (logprobs / temperature).softmax(-1).sort(descending=True, stable=True)
        rank = torch.arange(weights.shape[1], device=weights.device)
        weights = weights.masked_fill((rank >= top_k) & (top_k > 0), 0.0)
        mass = weights.cumsum(-1)
        weights = weights.masked_fill(mass - weights >= top_p * mass[:, -1:], 0.0)  # keeps the token that reaches top_p
        mass = weights.cumsum(-1)
        place = (mass <= uniform * mass[:, -1:]).sum(-1, keepdim=True).clamp(max=weights.shape[1] - 1)
        tokens = order.gather(-1, place)
        self._sampled = tokens[:, 0], logprobs.gather(-1, tokens)[:, 0]
        return scores

    def write_sampled(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:  # noqa: ARG002
        """Write the sampled tokens, and their log-probabilities in the bits of integers. Replaces `ModelRunner._sample`."""
        assert self._sampled is not None
        tokens, logprobs = self._sampled
        output_ids[0, : len(tokens)].copy_(tokens)
        output_ids[1, : len(tokens)].copy_(logprobs.view(torch.int32))


def cuda_memory_share() -> float:
    """Return the share of the memory that this process has not reserved that the cache may take.

    transformers takes a share of that, whether or not other processes have left it free.
    """
    free, total = torch.cuda.mem_get_info()
    return min(CUDA_BYTES, 0.8 * free) / (total - torch.cuda.memory_reserved())


def _float_bits(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(torch.int32)


class Router(OutputRouter):
    """Delivers outputs to waiting requests in their event loops, and drops outputs of requests that were abandoned."""

    def deliver(self, output: GenerationOutput) -> None:
        """See `OutputRouter`."""
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        """See `OutputRouter`."""
        calls: dict[asyncio.AbstractEventLoop, list[tuple[Callable[[GenerationOutput], None], GenerationOutput]]] = defaultdict(list)
        with self._lock:
            for output in outputs:
                if entry := self.result_handlers.get(output.request_id):
                    handler, loop = entry
                    calls[loop].append((handler, output))
        for loop, batch in calls.items():
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(_call_handlers, batch)

    def forget(self, id: str) -> None:
        """Remove the handler of a request that has ended or was abandoned."""
        with self._lock:
            self.result_handlers.pop(id, None)


def _call_handlers(batch: list[tuple[Callable[[GenerationOutput], None], GenerationOutput]]) -> None:
    for handler, output in batch:
        handler(output)


class TransformersEngine:
    """Runs a Hugging Face directory: in bf16 on CUDA; in fp32 on a CPU, where it only serves as the reference.

    `dtype` replaces that precision. In bf16 the most probable tokens are often equally probable, so greedy texts differ from fp32's.
    """

    def __init__(self, directory: Path, dtype: torch.dtype | None = None) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        self.tokenizer, self.limits = load_tokenizer(directory), ModelLimits(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        model.to(device)
        size = {"max_memory_percent": cuda_memory_share()} if device.type == "cuda" else {"num_blocks": CPU_CACHE_PAGES}
        config = ContinuousBatchingConfig(return_logprobs=True, **size)
        self._manager = model.init_continuous_batching(GenerationConfig(eos_token_id=-1, do_sample=False), config)
        sampling = Sampling()
        self._manager.logit_processor = sampling
        self._manager.output_router = self._router = Router()
        with torch.random.fork_rng():  # it seeds torch's generators, from which a fine-tuning in this process draws
            self._start()
        self._manager.batch_processor.model_runner._sample = sampling.write_sampled
        self._ids = itertools.count()
        self._logprob_model = LogprobModel(directory, device)

    def _start(self) -> None:
        self._manager.start()
        deadline = time.monotonic() + START_SECONDS
        while self._manager.batch_processor is None:  # its thread creates it
            if not self.alive or time.monotonic() > deadline:
                self.close()
                raise EngineStopped(f"the engine cannot start: {self._manager.background_thread_status.fatal_error}")
            time.sleep(0.01)

    @property
    def alive(self) -> bool:
        """See `Engine`."""
        return bool(self._manager.is_running()) and self._manager.background_thread_status.can_accept_new_requests() is None

    @property
    def ready(self) -> bool:
        """See `Engine`. A manager that has failed is not replaced: its process has to be."""
        return self.alive

    @property
    def restarts(self) -> int:
        """See `Engine`. There is none, for the reason above."""
        return 0

    @property
    def cache_usage(self) -> float:
        """See `Engine`."""
        cache = self._manager.batch_processor.cache
        free: int = sum(cache.pool.count_free_blocks(allocator.index) for allocator in cache.cache_allocators.values())
        blocks: int = sum(allocator.num_blocks for allocator in cache.cache_allocators.values())
        return 1 - free / blocks

    @property
    def running(self) -> int:
        """See `Engine`."""
        return len(self._router.result_handlers)

    @property
    def steps(self) -> int:
        """See `Engine`."""
        return int(self._manager.current_batch)

    def logprob_reader(self) -> TransformersLogprobReader:
        """See `Engine`."""
        return TransformersLogprobReader(self._logprob_model)

    async def best_spans(self, prompt: Sequence[int], trie: SpanTrie, count: int) -> list[ScoredSpan]:
        """See `Engine`. One search runs at a time; the others wait."""
        self.limits.check(len(prompt), trie.depth)
        return [] if trie.empty else await best_spans(self._logprob_model, prompt, trie, count, self.limits.eos)

    async def stream(self, prompt: Prompt, params: SamplingParams, before: Sequence[int] = ()) -> AsyncGenerator[Token]:
        """See `Engine`."""
        ids = [*before, *await asyncio.to_thread(encode, self.tokenizer, prompt)]
        self.limits.check(len(ids), params.length)
        detokenizer = IncrementalDetokenizer(self.tokenizer, ids, self.limits.eos)
        outputs: asyncio.Queue[GenerationOutput] = asyncio.Queue()
        id, yielded, output = str(next(self._ids)), 0, None
        self._manager.register_result_handler(id, outputs.put_nowait)
        sampling_kwargs = {"params": params, "generator": np.random.default_rng(params.seed)}
        eos = sorted(self.limits.eos)
        try:
            if not self._manager.add_request(ids, id, params.length, streaming=True, eos_token_id=eos, **sampling_kwargs):
                raise EngineStopped(STOPPED)
            while output is None or not output.is_finished():
                output = await self._next_output(outputs)
                if output.status == RequestStatus.FAILED:
                    raise EngineStopped(STOPPED) from RuntimeError(output.error)
                for index in range(yielded, len(output.generated_tokens)):
                    token, finish_reason = output.generated_tokens[index], self._finish_reason(output, index, params.length)
                    yield detokenizer.token([token], output.logprobs[index] if params.cumulative_logprob else None, finish_reason)
                yielded = len(output.generated_tokens)
        finally:
            self._router.forget(id)
            if output is None or not output.is_finished():
                self._manager.cancel_request(id)

    def _finish_reason(self, output: GenerationOutput, index: int, length: int) -> FinishReason | None:
        if output.generated_tokens[index] in self.limits.eos:
            return "stop"
        return "length" if index + 1 == length else None

    async def _next_output(self, outputs: "asyncio.Queue[GenerationOutput]") -> GenerationOutput:
        """Wait for the next output. A manager that fails while it accepts a request may lose it, so check that the manager is alive."""
        while True:
            try:
                async with asyncio.timeout(ALIVE_CHECK_SECONDS):
                    return await outputs.get()
            except TimeoutError:
                if not self.alive and outputs.empty():
                    raise EngineStopped(STOPPED) from None

    def close(self) -> None:
        """See `Engine`."""
        self._logprob_model.closed = True
        self._manager.stop(block=True, hard_stop=True)
