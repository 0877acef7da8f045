"""Scores of given tokens by transformers: a second copy of the model, since the first one's attention is that of continuous batching."""

import asyncio
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from models.engines import MAX_LOGPROBS, IdScore

STEP_TOKENS = 256
"""Read at once: the logits of all tokens of a long text would take gigabytes."""


class Scoring:
    """The model, in fp32, for one text at a time; loaded when the first one comes."""

    def __init__(self, directory: Path, device: torch.device) -> None:
        self._directory, self._device = directory, device
        self._lock = threading.Lock()

    @cached_property
    def _model(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self._directory, dtype=torch.float32).eval()
        model.to(self._device)  # type: ignore[arg-type]  # transformers' decorated `to`
        return model

    def read(self, ids: Sequence[int], last: int | None, cache: DynamicCache) -> list[IdScore]:
        """The scores of `ids`, before which `last` stands and, in `cache`, what precedes it."""
        scores: list[IdScore] = [(None, [])] if last is None else []
        targets = ids[len(scores) :]
        inputs = [*ids[:-1]] if last is None else [last, *ids[:-1]]
        for first in range(0, len(inputs), STEP_TOKENS):
            part = slice(first, first + STEP_TOKENS)
            with self._lock, torch.inference_mode():
                read = torch.tensor([inputs[part]], device=self._device)
                logprobs = self._model(input_ids=read, past_key_values=cache, use_cache=True).logits[0].log_softmax(-1)
                chosen = logprobs.gather(-1, torch.tensor(targets[part], device=self._device)[:, None])[:, 0]
                best = logprobs.topk(MAX_LOGPROBS)
            rows = zip(chosen.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
            scores += [(logprob, list(zip(named, values, strict=True))) for logprob, named, values in rows]
        return scores


class TransformersScorer:
    """See `Scorer`."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring, self._cache = scoring, DynamicCache()
        self._last: int | None = None

    async def read(self, ids: Sequence[int]) -> list[IdScore]:
        """See `Scorer`."""
        if not ids:
            return []
        scores = await asyncio.to_thread(self._scoring.read, ids, self._last, self._cache)
        self._last = ids[-1]
        return scores

    def close(self) -> None:
        """See `Scorer`."""
