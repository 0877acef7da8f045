"""Streams of the service, for the generated client: `make client` puts this file beside it as `trigen_client/streaming.py`.

Generators know nothing of Server-Sent Events: an operation reads one answer.
"""

import json
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

from .client import AuthenticatedClient, Client
from .models import CompletionChunk, ErrorResponse, GenerateEvent, ProblemDetails

Event = GenerateEvent | CompletionChunk


class Refused(Exception):
    """The service answered with an error and no stream."""

    def __init__(self, problem: ProblemDetails | ErrorResponse | None) -> None:
        super().__init__(problem)
        self.problem = problem


def stream(operation: ModuleType, *, client: AuthenticatedClient | Client, body: Any) -> Iterator[Event]:
    """The events of an operation, such as `trigen_client.api.generation.generate_text`; sets `stream` in `body`.

    Raises `Refused`. A stream whose last event has no `finish_reason` was cut off.
    """
    body.stream = True
    with client.get_httpx_client().stream(**operation._get_kwargs(body=body)) as response:
        if response.status_code != 200:
            response.read()
            raise Refused(operation._parse_response(client=client, response=response))
        for line in response.iter_lines():
            if event := _event(line):
                yield event


async def astream(operation: ModuleType, *, client: AuthenticatedClient | Client, body: Any) -> AsyncIterator[Event]:
    """As `stream`."""
    body.stream = True
    async with client.get_async_httpx_client().stream(**operation._get_kwargs(body=body)) as response:
        if response.status_code != 200:
            await response.aread()
            raise Refused(operation._parse_response(client=client, response=response))
        async for line in response.aiter_lines():
            if event := _event(line):
                yield event


def _event(line: str) -> Event | None:
    """What a line says: comments keep a stream alive, `[DONE]` ends one as OpenAI has it."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return None
    data = json.loads(line.removeprefix("data: "))
    return CompletionChunk.from_dict(data) if "choices" in data else GenerateEvent.from_dict(data)
