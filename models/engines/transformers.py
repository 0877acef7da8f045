"""The CUDA engine, and the reference that the CPU engine is tested against: transformers, one token of one request at a time."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, DynamicCache

from models.base import FinishReason, SamplingParams, Token
from models.engines import EngineStopped
from models.engines.text import IncrementalText, ModelLimits, load_tokenizer
from models.sampling import log_softmax, sample


class TransformersEngine:
    """Runs a Hugging Face directory: in fp32 on a CPU, in bf16 on CUDA where it is there.

    One thread computes; the requests under way take turns, each with a cache and a random generator of its own.
    """

    def __init__(self, directory: Path) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        self._tokenizer = load_tokenizer(directory)
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        self._model.to(self._device)
        self._limits = ModelLimits(directory)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="transformers-engine")
        self._closed = False

    @property
    def context_length(self) -> int:
        """See `Engine`."""
        return self._limits.context_length

    @property
    def alive(self) -> bool:
        """See `Engine`."""
        return not self._closed

    async def stream(self, prompt: str, params: SamplingParams) -> AsyncGenerator[Token]:
        """See `Engine`."""
        ids: list[int] = self._tokenizer.encode(prompt).ids
        self._limits.check(len(ids), params.length)
        text = IncrementalText(self._tokenizer, ids, self._limits.eos)
        generator = np.random.default_rng(params.seed)
        cache = DynamicCache()
        for step in range(1, params.length + 1):
            logprobs = await self._compute(ids, cache)
            id = sample(logprobs, params, generator)
            done: FinishReason | None = "stop" if id in self._limits.eos else "length" if step == params.length else None
            yield text.token(id, float(logprobs[id]), done)
            if done:
                return
            ids = [id]

    def close(self) -> None:
        """See `Engine`."""
        self._closed = True
        self._executor.shutdown()

    async def _compute(self, ids: list[int], cache: DynamicCache) -> NDArray[np.float64]:
        if self._closed:
            raise EngineStopped("the engine was closed")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._forward, ids, cache)

    def _forward(self, ids: list[int], cache: DynamicCache) -> NDArray[np.float64]:
        """Log P of every token as the next, shape (vocabulary,); extends `cache` by `ids`."""
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([ids], device=self._device), past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        return log_softmax(output.logits[0, -1].float().cpu().numpy())
