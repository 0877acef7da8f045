"""OpenAI's completions for all three models."""

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from models.base import FinishReason, Logprob, Prompt, PromptLogprobs, SamplingParams, Token, UnknownIds
from models.llm import LLM
from serving.api.completion_json import ChoiceWriter, write_completion
from serving.api.completion_schemas import (
    DEFAULT_MAX_TOKENS,
    DONE,
    MAX_SCORED_TOKENS,
    ChunkChoice,
    Completion,
    CompletionChunk,
    CompletionRequest,
    Logprobs,
    OpenAIError,
    Usage,
)
from serving.api.schemas import StreamFinishReason
from serving.api.served_model import Generation, ServedModel
from serving.problems import invalid_field
from serving.settings import settings
from serving.streaming import EventStream, ServiceStopping, stream_problem

PIECE_TOKENS = 128
"""How many log-probabilities are encoded at once: about a millisecond's work."""


@dataclass
class _Text:
    """One of the texts that a completion generates."""

    index: int
    items: AsyncGenerator[PromptLogprobs | Token]
    prompt_text: str
    """The prompt, if the text repeats it (`echo`)."""
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self._unsent_prompt = self.prompt_text
        self._prompt_offset, self._offset = 0, len(self.prompt_text)
        """Offset of the next token of the prompt and of the next generated token, in characters. Spaces at the end of a prompt may
        belong to no token."""

    def pieces(self, item: PromptLogprobs | Token) -> Iterator[ChunkChoice]:
        """Yield `item` as the next pieces of the text, each with the log-probabilities of up to `PIECE_TOKENS` tokens."""
        text, self._unsent_prompt = self._unsent_prompt, ""
        if isinstance(item, Token):
            text += item.text
        parts = [item.logprobs[start : start + PIECE_TOKENS] for start in range(0, len(item.logprobs), PIECE_TOKENS)] or [()]
        for number, part in enumerate(parts, start=1):
            if isinstance(item, Token) and number == len(parts):
                self.finish_reason = item.finish_reason
            logprobs = self._logprobs(part, generated=isinstance(item, Token))
            yield ChunkChoice(index=self.index, text=text, logprobs=logprobs, finish_reason=self.finish_reason)
            text = ""

    def _logprobs(self, tokens: tuple[Logprob, ...], *, generated: bool) -> Logprobs | None:
        if not tokens:
            return None
        start = self._offset if generated else self._prompt_offset
        *offsets, end = itertools.accumulate((token.characters for token in tokens), initial=start)
        if generated:
            self._offset = end
        else:
            self._prompt_offset = end
        return Logprobs(
            tokens=[token.text for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[None if token.logprob is None else dict([*token.top, (token.text, token.logprob)]) for token in tokens],
            text_offset=offsets,
        )


class _CompletionRun:
    """The generation of one completion and its token counts."""

    def __init__(self, served: ServedModel[Any], request: CompletionRequest) -> None:
        self._served, self._request = served, request
        self._generation = Generation(served, "prompt")
        self._id, self._created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        self._prompt_tokens = self._new_tokens = 0

    async def respond(self) -> Response:
        """Return the completion, or a stream of its chunks."""
        request = self._request
        counts = [await self._count_tokens(prompt) for prompt in request.prompts]
        self._prompt_tokens = sum(counts)
        self._check_scored_tokens()
        texts: list[_Text] = []
        for prompt, count in zip(request.prompts, counts, strict=True):
            texts += [self._start_text(prompt, count, len(texts) + n) for n in range(request.n or 1)]
        items = self._generation.admitted(_merge(texts))
        if request.stream:
            return await EventStream.open(items, lambda items: self._chunks(texts, items))
        choices = [ChoiceWriter(text.index) for text in texts]
        async with aclosing(items):
            async for text, item in items:
                for piece in self._pieces(text, item):
                    choices[text.index].add(piece)
                    if piece.logprobs:
                        await asyncio.sleep(0)
        completion = Completion(choices=[], usage=self._usage(), **self._fields())
        return Response(write_completion(completion, choices), media_type="application/json")

    def _fields(self) -> dict[str, Any]:
        """The fields that a completion and its chunks share."""
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._request.model,
            "system_fingerprint": self._served.tag,
        }

    async def _count_tokens(self, prompt: Prompt) -> int:
        try:
            return await self._served.count(prompt)
        except UnknownIds as error:
            raise invalid_field("prompt", str(error), "unknown_ids") from None

    @property
    def _max_tokens(self) -> int:
        return DEFAULT_MAX_TOKENS if self._request.max_tokens is None else self._request.max_tokens

    def _check_scored_tokens(self) -> None:
        """Raise `Problem` if the response could have too many log-probabilities."""
        request = self._request
        if request.logprobs is None:
            return
        prompts = self._prompt_tokens if request.echo else 0
        tokens = (prompts + len(request.prompts) * self._max_tokens) * (request.n or 1)
        if tokens > MAX_SCORED_TOKENS:
            message = (
                f"a response has log-probabilities of up to {MAX_SCORED_TOKENS:,} tokens, and this one could have {tokens:,}: "
                "send fewer or shorter prompts, or lower n or max_tokens"
            )
            raise invalid_field("logprobs", message, "too_many_scored_tokens")

    def _start_text(self, prompt: Prompt, prompt_tokens: int, index: int) -> _Text:
        request = self._request
        seed = secrets.randbits(32) if request.seed is None else request.seed + index
        params = SamplingParams(
            length=self._max_tokens,
            temperature=1 if request.temperature is None else request.temperature,
            top_p=1 if request.top_p is None else request.top_p,
            seed=seed % 2**32,
            stop=tuple([request.stop] if isinstance(request.stop, str) else request.stop or []),
            flush_interval=settings().stream_interval_ms / 1000,
            final_only=not request.stream,
            logprobs=request.logprobs,
        )
        items: AsyncGenerator[PromptLogprobs | Token]
        if request.echo and request.logprobs is not None:
            items = self._served.model.stream_with_prompt_logprobs(prompt, params)
        else:
            items = self._served.model.stream(prompt, params)
        measured = self._generation.text(items, prompt_tokens, streamed=bool(request.stream))
        return _Text(index, measured, self._prompt_text(prompt) if request.echo else "")

    def _prompt_text(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        assert isinstance(self._served.model, LLM)  # `_count_tokens` rejects ids for the other models
        return self._served.model.decode(prompt)

    def _pieces(self, text: _Text, item: PromptLogprobs | Token) -> Iterator[ChunkChoice]:
        if isinstance(item, Token):
            self._new_tokens += item.count
        return text.pieces(item)

    def _usage(self) -> Usage:
        total = self._prompt_tokens + self._new_tokens
        return Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._new_tokens, total_tokens=total)

    async def _chunks(self, texts: list[_Text], items: AsyncIterator[tuple[_Text, PromptLogprobs | Token]]) -> AsyncGenerator[str]:
        """Yield a `CompletionChunk` for each piece, the last one with the usage, and then `DONE`."""
        options = self._request.stream_options
        usage_in_own_chunk = options is not None and options.include_usage
        unfinished = len(texts)
        try:
            async for text, item in items:
                for piece in self._pieces(text, item):
                    if piece.finish_reason:
                        unfinished -= 1
                    if piece.text or piece.logprobs or piece.finish_reason:
                        yield self._chunk([piece], None if unfinished or usage_in_own_chunk else self._usage())
                    if piece.logprobs:
                        await asyncio.sleep(0)
            if usage_in_own_chunk:
                yield self._chunk([], self._usage())
        except ServiceStopping:
            yield self._chunk(_interrupted(texts, "cancelled"), self._usage())
        except Exception as error:
            yield self._chunk(_interrupted(texts, "error"), self._usage(), OpenAIError(**stream_problem(error).openai_error))
        yield DONE

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None, error: OpenAIError | None = None) -> str:
        chunk = CompletionChunk(choices=choices, usage=usage, error=error, **self._fields())
        return chunk.model_dump_json(exclude=None if error else {"error"})


async def create_completion(served: ServedModel[Any], request: CompletionRequest) -> Response:
    """Complete all prompts of a request concurrently. With a seed, the text at index i uses seed + i."""
    return await _CompletionRun(served, request).respond()


async def _merge(texts: list[_Text]) -> AsyncGenerator[tuple[_Text, PromptLogprobs | Token]]:
    """Yield the items of all texts as they arrive. The first error ends all texts."""
    arrived: asyncio.Queue[tuple[_Text, PromptLogprobs | Token | Exception]] = asyncio.Queue()

    async def forward(text: _Text) -> None:
        try:
            async with aclosing(text.items):
                async for item in text.items:
                    arrived.put_nowait((text, item))
        except Exception as error:
            arrived.put_nowait((text, error))

    tasks = [asyncio.ensure_future(forward(text)) for text in texts]
    try:
        unfinished = len(texts)
        while unfinished:
            text, item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if isinstance(item, Token) and item.finish_reason:
                unfinished -= 1
            yield text, item
    finally:  # the tasks are not awaited: a stopping service leaves no time for that
        for task in tasks:
            task.cancel()


def _interrupted(texts: list[_Text], reason: StreamFinishReason) -> list[ChunkChoice]:
    """Return the last pieces of the texts that have not finished."""
    return [ChunkChoice(index=text.index, text="", logprobs=None, finish_reason=reason) for text in texts if not text.finish_reason]
