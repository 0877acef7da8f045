"""The search for the best spans of a passage, computed by transformers with the `LogprobModel`."""

import asyncio
import threading
from collections.abc import Sequence

from transformers import DynamicCache

from models.engines import ScoredSpan
from models.engines.spans.beam import SpanSearch
from models.engines.transformers_logprobs import CHUNK_TOKENS, LogprobModel
from models.spans import SpanTrie


async def best_spans(model: LogprobModel, prompt: Sequence[int], trie: SpanTrie, count: int, eos: frozenset[int]) -> list[ScoredSpan]:
    """See `Engine`. One search runs at a time, because its cache holds the prompt once for each row of the beam; the others wait."""
    cancelled = threading.Event()
    async with model.search:
        try:
            return await asyncio.to_thread(_search, model, prompt, SpanSearch(trie, count, eos), cancelled)
        finally:
            cancelled.set()


def _search(model: LogprobModel, prompt: Sequence[int], search: SpanSearch, cancelled: threading.Event) -> list[ScoredSpan]:
    """Run a search. Raises EngineStopped, between two forward passes, once `cancelled` is set or the engine is closed."""
    cache = DynamicCache()
    for first in range(0, len(prompt), CHUNK_TOKENS):
        logprobs = model.next_token([prompt[first : first + CHUNK_TOKENS]], cache, cancelled)
    search.advance(logprobs)
    while not search.done:
        logprobs = model.next_token([[token] for token in search.tokens], cache, cancelled, search.parents)
        search.advance(logprobs)
    return search.spans
