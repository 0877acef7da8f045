"""Streaming for the generated client: `make client` copies this file to `trigen_client/streaming.py`.

The generated operations return one response each: the client generator does not support Server-Sent Events.
"""

import json
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

from .client import AuthenticatedClient, Client
from .models import CompletionChunk, ErrorResponse, GenerateEvent, ProblemDetails

Event = GenerateEvent | CompletionChunk


class Refused(Exception):
    """The service returned an error instead of a stream."""

    def __init__(self, problem: ProblemDetails | ErrorResponse | None) -> None:
        super().__init__(problem)
        self.problem = problem


def stream(operation: ModuleType, *, client: AuthenticatedClient | Client, body: Any) -> Iterator[Event]:
    """Yield the events of an operation, such as `trigen_client.api.generation.generate_text`. Sets `stream` in `body`.

    Raises `Refused` if the service returns an error. If the last event has no `finish_reason`, the stream was cut off.
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
    """The asynchronous version of `stream`."""
    body.stream = True
    async with client.get_async_httpx_client().stream(**operation._get_kwargs(body=body)) as response:
        if response.status_code != 200:
            await response.aread()
            raise Refused(operation._parse_response(client=client, response=response))
        async for line in response.aiter_lines():
            if event := _event(line):
                yield event


def _event(line: str) -> Event | None:
    """Parse a line. Comments, which keep a stream alive, and OpenAI's final `[DONE]` are not events."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return None
    data = json.loads(line.removeprefix("data: "))
    return CompletionChunk.from_dict(data) if "choices" in data else GenerateEvent.from_dict(data)
