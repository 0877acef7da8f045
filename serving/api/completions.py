"""OpenAI's completions for all three models."""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from starlette.responses import Response

from models.base import FinishReason, Prompt, SamplingParams, TextModel, Token, UnknownIds
from models.llm import LLM
from serving.api.completion_schemas import (
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
from serving.api.generation import checked
from serving.api.schemas import StreamFinishReason
from serving.problems import invalid_field
from serving.settings import settings
from serving.streaming import EventStream, ServiceStops, stream_problem


@dataclass
class _Text:
    """One of the texts that are generated."""

    index: int
    tokens: AsyncGenerator[Token]
    echo: str
    """What its first piece begins with."""
    end: int
    """Where its next token with scores begins, in characters."""
    finish_reason: FinishReason | None = None

    def piece(self, token: Token) -> ChunkChoice:
        """What comes next of it."""
        logprobs = None
        if token.scores:
            offsets = []
            for score in token.scores:
                offsets.append(self.end)
                self.end += score.characters
            logprobs = Logprobs(
                tokens=[score.text for score in token.scores],
                token_logprobs=[score.logprob for score in token.scores],
                top_logprobs=[None if score.logprob is None else dict([*score.top, (score.text, score.logprob)]) for score in token.scores],
                text_offset=offsets,
            )
        text, self.echo, self.finish_reason = self.echo + token.text, "", token.finish_reason
        if not token.count:  # the prompt itself, which may end with spaces that are no token's
            self.end = len(text)
        return ChunkChoice(index=self.index, text=text, logprobs=logprobs, finish_reason=token.finish_reason)


class _Request:
    """One request: its texts, and what is told of it."""

    def __init__(self, model: TextModel, tag: str, request: CompletionRequest) -> None:
        self._model, self._tag, self._request = model, tag, request
        self._id, self._created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        self._prompt_tokens = self._new_tokens = 0

    async def answer(self) -> Completion | Response:
        """The whole, or its events as they come."""
        request = self._request
        texts: list[_Text] = []
        for prompt in request.prompts:
            self._prompt_tokens += await self._count(prompt)
            texts += [self._begin(prompt, len(texts) + n) for n in range(request.n or 1)]
        if request.stream:
            return await EventStream.begin(_as_they_come(texts), lambda pieces: self._events(texts, pieces))
        pieces: list[list[ChunkChoice]] = [[] for _ in texts]
        async with aclosing(_as_they_come(texts)) as tokens:
            async for text, token in tokens:
                self._new_tokens += token.count
                pieces[text.index].append(text.piece(token))
        return Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=request.model,
            system_fingerprint=self._tag,
            choices=[_whole(text, each) for text, each in zip(texts, pieces, strict=True)],
            usage=self._usage(),
        )

    async def _count(self, prompt: Prompt) -> int:
        try:
            return await asyncio.to_thread(self._model.count, prompt)
        except UnknownIds as error:
            raise invalid_field("prompt", str(error), "unknown_ids") from None

    def _begin(self, prompt: Prompt, index: int) -> _Text:
        request = self._request
        seed = secrets.randbits(32) if request.seed is None else request.seed + index
        params = SamplingParams(
            length=16 if request.max_tokens is None else request.max_tokens,
            temperature=1 if request.temperature is None else request.temperature,
            top_p=1 if request.top_p is None else request.top_p,
            seed=seed % 2**32,
            stop=tuple([request.stop] if isinstance(request.stop, str) else request.stop or []),
            interval=settings().stream_interval_ms / 1000 if request.stream else math.inf,
            scores=request.logprobs,
            prompt_scores=bool(request.echo) and request.logprobs is not None,
        )
        echo = self._text_of(prompt) if request.echo else ""
        tokens = checked(self._model.stream(prompt, params), "prompt", self._tag)
        return _Text(index, tokens, echo, end=0 if params.prompt_scores else len(echo))

    def _text_of(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        assert isinstance(self._model, LLM)  # `count` refuses ids for the others
        return self._model.decode(prompt)

    def _usage(self) -> Usage:
        total = self._prompt_tokens + self._new_tokens
        return Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._new_tokens, total_tokens=total)

    async def _events(self, texts: list[_Text], tokens: AsyncIterator[tuple[_Text, Token]]) -> AsyncGenerator[str]:
        """`CompletionChunk`s, the last of which has the usage, and `DONE`."""
        options = self._request.stream_options
        separately = options is not None and options.include_usage
        try:
            async for text, token in tokens:
                self._new_tokens += token.count
                piece = text.piece(token)
                ended = all(each.finish_reason for each in texts)
                if piece.text or piece.logprobs or piece.finish_reason:
                    yield self._chunk([piece], self._usage() if ended and not separately else None)
            if separately:
                yield self._chunk([], self._usage())
        except ServiceStops:
            yield self._chunk(_cut_off(texts, "cancelled"), self._usage())
        except Exception as error:
            yield self._chunk(_cut_off(texts, "error"), self._usage(), OpenAIError(**stream_problem(error).openai_error))
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
    """Complete the prompts of a request, all texts at once; of the same seed the n-th text has the seed that comes n after it."""
    return await _Request(model, tag, request).answer()


async def _as_they_come(texts: list[_Text]) -> AsyncGenerator[tuple[_Text, Token]]:
    """The tokens of all texts. The first that fails ends all."""
    arrived: asyncio.Queue[tuple[_Text, Token | Exception]] = asyncio.Queue()

    async def follow(text: _Text) -> None:
        try:
            async with aclosing(text.tokens):
                async for token in text.tokens:
                    arrived.put_nowait((text, token))
        except Exception as error:
            arrived.put_nowait((text, error))

    following = [asyncio.ensure_future(follow(text)) for text in texts]
    try:
        going_on = len(texts)
        while going_on:
            text, token = await arrived.get()
            if isinstance(token, Exception):
                raise token
            going_on -= token.finish_reason is not None
            yield text, token
    finally:  # without waiting for them: a service that stops gives no time to say so
        for task in following:
            task.cancel()


def _whole(text: _Text, pieces: list[ChunkChoice]) -> CompletionChoice:
    """All pieces of a text. Tokens of a stop string, before which it was cut off, are none of it."""
    written = "".join(piece.text for piece in pieces)
    parts = [piece.logprobs for piece in pieces if piece.logprobs]
    logprobs = None
    if parts:
        within = sum(offset < len(written) or text.end <= len(written) for part in parts for offset in part.text_offset)
        logprobs = Logprobs(
            tokens=[token for part in parts for token in part.tokens][:within],
            token_logprobs=[logprob for part in parts for logprob in part.token_logprobs][:within],
            top_logprobs=[top for part in parts for top in part.top_logprobs][:within],
            text_offset=[offset for part in parts for offset in part.text_offset][:within],
        )
    assert text.finish_reason
    return CompletionChoice(index=text.index, text=written, logprobs=logprobs, finish_reason=text.finish_reason)


def _cut_off(texts: list[_Text], reason: StreamFinishReason) -> list[ChunkChoice]:
    """The last pieces of those that had not ended."""
    return [ChunkChoice(index=text.index, text="", logprobs=None, finish_reason=reason) for text in texts if not text.finish_reason]
