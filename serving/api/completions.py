"""OpenAI's completions for all three models."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from starlette.responses import Response

from models.base import FinishReason, Logprob, Prompt, PromptLogprobs, SamplingParams, TextModel, Token, UnknownIds
from models.llm import LLM
from serving.api.completion_schemas import (
    DEFAULT_MAX_TOKENS,
    DONE,
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionRequest,
    Logprobs,
    OpenAIError,
    Usage,
)
from serving.api.generation import raise_problems
from serving.api.schemas import StreamFinishReason
from serving.problems import invalid_field
from serving.settings import settings
from serving.streaming import EventStream, ServiceStopping, stream_problem


@dataclass
class _Text:
    """One of the texts that a completion generates."""

    index: int
    items: AsyncGenerator[PromptLogprobs | Token]
    prompt_text: str
    """The prompt that the first piece has to repeat (`echo`); empty afterwards."""
    offset: int
    """Offset of the next token that has a log-probability, in characters."""
    finish_reason: FinishReason | None = None

    def piece(self, item: PromptLogprobs | Token) -> ChunkChoice:
        """Return `item` as the next piece of the text."""
        text, self.prompt_text = self.prompt_text, ""
        if isinstance(item, PromptLogprobs):
            logprobs = self._logprobs(item.logprobs)
            self.offset = len(text)  # the prompt may end with spaces that belong to no token
        else:
            text, self.finish_reason = text + item.text, item.finish_reason
            logprobs = self._logprobs(item.logprobs)
        return ChunkChoice(index=self.index, text=text, logprobs=logprobs, finish_reason=self.finish_reason)

    def _logprobs(self, tokens: tuple[Logprob, ...]) -> Logprobs | None:
        if not tokens:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self.offset)
            self.offset += token.characters
        return Logprobs(
            tokens=[token.text for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[None if token.logprob is None else dict([*token.top, (token.text, token.logprob)]) for token in tokens],
            text_offset=offsets,
        )


class _CompletionRun:
    """The generation of one completion and its token counts."""

    def __init__(self, model: TextModel, tag: str, request: CompletionRequest) -> None:
        self._model, self._tag, self._request = model, tag, request
        self._id, self._created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        self._prompt_tokens = self._new_tokens = 0

    async def respond(self) -> Completion | Response:
        """Return the completion, or a stream of its chunks."""
        request = self._request
        texts: list[_Text] = []
        for prompt in request.prompts:
            self._prompt_tokens += await self._count_tokens(prompt)
            texts += [self._start_text(prompt, len(texts) + n) for n in range(request.n or 1)]
        if request.stream:
            return await EventStream.open(_merge(texts), lambda items: self._chunks(texts, items))
        pieces: list[list[ChunkChoice]] = [[] for _ in texts]
        async with aclosing(_merge(texts)) as items:
            async for text, item in items:
                pieces[text.index].append(self._piece(text, item))
        return Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=request.model,
            system_fingerprint=self._tag,
            choices=[_join(text, text_pieces) for text, text_pieces in zip(texts, pieces, strict=True)],
            usage=self._usage(),
        )

    async def _count_tokens(self, prompt: Prompt) -> int:
        try:
            return await asyncio.to_thread(self._model.count, prompt)
        except UnknownIds as error:
            raise invalid_field("prompt", str(error), "unknown_ids") from None

    def _start_text(self, prompt: Prompt, index: int) -> _Text:
        request = self._request
        seed = secrets.randbits(32) if request.seed is None else request.seed + index
        params = SamplingParams(
            length=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
            temperature=1 if request.temperature is None else request.temperature,
            top_p=1 if request.top_p is None else request.top_p,
            seed=seed % 2**32,
            stop=tuple([request.stop] if isinstance(request.stop, str) else request.stop or []),
            flush_interval=settings().stream_interval_ms / 1000,
            final_only=not request.stream,
            logprobs=request.logprobs,
        )
        prompt_text = self._prompt_text(prompt) if request.echo else ""
        items: AsyncGenerator[PromptLogprobs | Token]
        if request.echo and request.logprobs is not None:
            items, offset = self._model.stream_with_prompt_logprobs(prompt, params), 0
        else:
            items, offset = self._model.stream(prompt, params), len(prompt_text)
        return _Text(index, raise_problems(items, "prompt", self._tag), prompt_text, offset)

    def _prompt_text(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        assert isinstance(self._model, LLM)  # `_count_tokens` rejects ids for the other models
        return self._model.decode(prompt)

    def _piece(self, text: _Text, item: PromptLogprobs | Token) -> ChunkChoice:
        if isinstance(item, Token):
            self._new_tokens += item.count
        return text.piece(item)

    def _usage(self) -> Usage:
        total = self._prompt_tokens + self._new_tokens
        return Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._new_tokens, total_tokens=total)

    async def _chunks(self, texts: list[_Text], items: AsyncIterator[tuple[_Text, PromptLogprobs | Token]]) -> AsyncGenerator[str]:
        """Yield a `CompletionChunk` for each piece, the last one with the usage, and then `DONE`."""
        options = self._request.stream_options
        usage_in_own_chunk = options is not None and options.include_usage
        try:
            async for text, item in items:
                piece = self._piece(text, item)
                finished = all(each.finish_reason for each in texts)
                if piece.text or piece.logprobs or piece.finish_reason:
                    yield self._chunk([piece], self._usage() if finished and not usage_in_own_chunk else None)
            if usage_in_own_chunk:
                yield self._chunk([], self._usage())
        except ServiceStopping:
            yield self._chunk(_interrupted(texts, "cancelled"), self._usage())
        except Exception as error:
            yield self._chunk(_interrupted(texts, "error"), self._usage(), OpenAIError(**stream_problem(error).openai_error))
        yield DONE

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None, error: OpenAIError | None = None) -> str:
        chunk = CompletionChunk(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._request.model,
            system_fingerprint=self._tag,
            choices=choices,
            usage=usage,
            error=error,
        )
        return chunk.model_dump_json(exclude=None if error else {"error"})


async def create_completion(model: TextModel, tag: str, request: CompletionRequest) -> Completion | Response:
    """Complete all prompts of a request concurrently. With a seed, the text at index i uses seed + i."""
    return await _CompletionRun(model, tag, request).respond()


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


def _join(text: _Text, pieces: list[ChunkChoice]) -> CompletionChoice:
    """Join all pieces of a text. Log-probabilities of tokens that a stop string cut off are dropped."""
    joined = "".join(piece.text for piece in pieces)
    parts = [piece.logprobs for piece in pieces if piece.logprobs]
    logprobs = None
    if parts:
        offsets = [offset for part in parts for offset in part.text_offset]
        end_of_last_token = text.offset  # beyond the joined text if a stop string cut tokens off
        kept = len(offsets) if end_of_last_token <= len(joined) else sum(offset < len(joined) for offset in offsets)
        logprobs = Logprobs(
            tokens=[token for part in parts for token in part.tokens][:kept],
            token_logprobs=[logprob for part in parts for logprob in part.token_logprobs][:kept],
            top_logprobs=[top for part in parts for top in part.top_logprobs][:kept],
            text_offset=offsets[:kept],
        )
    assert text.finish_reason
    return CompletionChoice(index=text.index, text=joined, logprobs=logprobs, finish_reason=text.finish_reason)


def _interrupted(texts: list[_Text], reason: StreamFinishReason) -> list[ChunkChoice]:
    """Return the last pieces of the texts that have not finished."""
    return [ChunkChoice(index=text.index, text="", logprobs=None, finish_reason=reason) for text in texts if not text.finish_reason]
