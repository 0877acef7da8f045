"""Log-probabilities, of given tokens or of every next token, computed by transformers.

They need a second copy of the model, because the attention of the engine's copy is set up for continuous batching.
"""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from models.engines import MAX_LOGPROBS, SCORED_TEXTS, EngineStopped, IdLogprob

CHUNK_TOKENS = 256
"""Tokens computed at once; the logits of all tokens of a long text would take gigabytes."""


class LogprobModel:
    """The model in fp32, loaded when the first text is read. Only one chunk is computed at a time, whichever text it belongs to."""

    def __init__(self, directory: Path, device: torch.device) -> None:
        self._directory, self._device = directory, device
        self._lock = threading.Lock()
        self.caches = asyncio.Semaphore(SCORED_TEXTS)
        self.search = asyncio.Lock()
        """Held by the search for spans that is in progress: see `models/engines/spans/transformers.py`."""
        self.closed = False

    @cached_property
    def _model(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self._directory, dtype=torch.float32).eval()
        model.to(self._device)  # type: ignore[arg-type]  # transformers' decorated `to`
        return model

    def compute(self, ids: Sequence[int], last: int | None, cache: DynamicCache, cancelled: threading.Event) -> list[IdLogprob]:
        """Return the log-probabilities of `ids`, which follow the token `last` (None at the start of a text).

        `cache` holds the keys and values of the tokens before `last` and is extended. Raises EngineStopped, between two chunks, once
        `cancelled` is set or the engine is closed.
        """
        logprobs: list[IdLogprob] = [(None, [])] if last is None else []
        targets = ids[len(logprobs) :]
        inputs = [*ids[:-1]] if last is None else [last, *ids[:-1]]
        for first in range(0, len(inputs), CHUNK_TOKENS):
            chunk = slice(first, first + CHUNK_TOKENS)
            with self._turn(cancelled):
                input_ids = torch.tensor([inputs[chunk]], device=self._device)
                distributions = self._model(input_ids=input_ids, past_key_values=cache, use_cache=True).logits[0].log_softmax(-1)
                chosen = distributions.gather(-1, torch.tensor(targets[chunk], device=self._device)[:, None])[:, 0]
                best = distributions.topk(MAX_LOGPROBS)
            rows = zip(chosen.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
            logprobs += [(logprob, list(zip(top_ids, values, strict=True))) for logprob, top_ids, values in rows]
        return logprobs

    def next_token(
        self, inputs: Sequence[Sequence[int]], cache: DynamicCache, cancelled: threading.Event, parents: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Return the log-probabilities of every token after each row of `inputs`, shape (rows, vocabulary).

        The rows follow the tokens in `cache`, which is extended; with `parents`, row n follows row `parents[n]` of the cache. Raises
        EngineStopped as `compute` does.
        """
        with self._turn(cancelled):
            if parents is not None:
                cache.reorder_cache(torch.tensor(parents, device=self._device))  # type: ignore[arg-type]  # any tensor of integers
            input_ids = torch.tensor([list(row) for row in inputs], device=self._device)
            logits = self._model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            logprobs: NDArray[np.float32] = logits.log_softmax(-1).cpu().numpy()
        return logprobs

    @contextmanager
    def _turn(self, cancelled: threading.Event) -> Iterator[None]:
        """Hold the model for one forward pass. Raises EngineStopped if the pass is not needed any more."""
        with self._lock, torch.inference_mode():
            if cancelled.is_set() or self.closed:
                raise EngineStopped("the engine was closed")
            yield


class TransformersLogprobReader:
    """See `LogprobReader`."""

    def __init__(self, model: LogprobModel) -> None:
        self._model, self._cache = model, DynamicCache()
        self._last: int | None = None
        self._has_cache = False
        self._cancelled = threading.Event()

    async def read(self, ids: Sequence[int]) -> list[IdLogprob]:
        """See `LogprobReader`."""
        if not ids:
            return []
        if not self._has_cache:
            await self._model.caches.acquire()
            self._has_cache = True
        logprobs = await asyncio.to_thread(self._model.compute, ids, self._last, self._cache, self._cancelled)
        self._last = ids[-1]
        return logprobs

    def close(self) -> None:
        """See `LogprobReader`."""
        self._cancelled.set()
        if self._has_cache:
            self._has_cache = False
            self._model.caches.release()
