"""A text as it comes: Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from models.base import Token
from models.engines import EngineStopped
from serving.problems import Problem
from serving.settings import settings

LAST_EVENT_SECONDS = 5
"""What a client may take to read that its time is over."""

logger = logging.getLogger("bentoml.trigen")


class EventStream(StreamingResponse):
    """An event for each piece of text, and a last one that says how it ended. The client that leaves ends the work, and so does the time
    that a request may take, be it that the client does not read.
    """

    def __init__(self, first: Token, tokens: AsyncGenerator[Token], deadline: float, told: dict[str, Any]) -> None:
        # Proxies must not collect the events: nginx asks for the header of that name.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(_events(first, tokens, deadline, told), media_type="text/event-stream", headers=headers)
        self._tokens, self._deadline = tokens, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline + LAST_EVENT_SECONDS):
                    await super().__call__(scope, receive, send)
        finally:
            await self._tokens.aclose()


async def event_stream(tokens: AsyncGenerator[Token], **told: Any) -> EventStream:
    """Answer with an event for each piece of text, `{"text": …}`, and a last one that also has `finish_reason`, `new_tokens` and what is
    `told`: a stream without it was cut off. A piece is one token or more: see `Settings.stream_interval_ms`.

    What is wrong before the first token is raised here, so that it can be answered with a status of its own; what goes wrong later
    makes the last event's `finish_reason` `error`, with a `problem` as the body of an error would be.
    """
    deadline = asyncio.get_running_loop().time() + settings().timeout_seconds
    return EventStream(await anext(tokens), tokens, deadline, told)


async def _events(first: Token, tokens: AsyncGenerator[Token], deadline: float, told: dict[str, Any]) -> AsyncGenerator[bytes]:
    token, count = first, first.count
    try:
        while not token.finish_reason:
            if token.text:  # empty while a character is incomplete
                yield _event({"text": token.text})
            async with asyncio.timeout_at(deadline):
                token = await anext(tokens)
            count += token.count
    except Exception as error:
        failed = {"text": "", "finish_reason": "error", "new_tokens": count} | told
        yield _event(failed | {"problem": _problem(error).body})
    else:
        yield _event({"text": token.text, "finish_reason": token.finish_reason, "new_tokens": count} | told)


def _problem(error: Exception) -> Problem:
    if isinstance(error, TimeoutError):
        return Problem.timeout()
    if isinstance(error, EngineStopped):
        return Problem(503, f"the model cannot go on: {error}")
    logger.error("a stream failed", exc_info=error)
    return Problem.internal()


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
