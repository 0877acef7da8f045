"""Streaming for the generated client: `make client` copies this file to `trigen_client/streaming.py`.

The generated operations return one response each: the client generator does not support Server-Sent Events.
"""

import json
from collections.abc import AsyncIterator, Iterator
from types import ModuleType, TracebackType
from typing import Any

import httpx

from .client import AuthenticatedClient, Client
from .models import CompletionChunk, ErrorResponse, GenerateEvent, ProblemDetails

Event = GenerateEvent | CompletionChunk
DONE = "data: [DONE]"
"""The last line of OpenAI's streams."""


class Refused(Exception):
    """The service returned an error instead of a stream."""

    def __init__(self, problem: ProblemDetails | ErrorResponse | None) -> None:
        super().__init__(problem)
        self.problem = problem


class CutOff(Exception):
    """The stream ended without its last event: the service died, or the connection broke. Send the request again."""

    def __init__(self) -> None:
        super().__init__("The stream was cut off before its last event. Send the request again.")


def stream(operation: ModuleType, *, client: AuthenticatedClient | Client, body: Any) -> Iterator[Event]:
    """Yield the events of an operation, such as `trigen_client.api.generation.generate_text`. Sets `stream` in `body`.

    Raises `Refused` if the service returns an error, and `CutOff` if the stream ends without its last event.
    """
    body.stream = True
    with client.get_httpx_client().stream(**operation._get_kwargs(body=body)) as response:
        if response.status_code != 200:
            response.read()
            raise Refused(operation._parse_response(client=client, response=response))
        with _Reader() as reader:
            for line in response.iter_lines():
                if event := reader.read(line):
                    yield event


async def astream(operation: ModuleType, *, client: AuthenticatedClient | Client, body: Any) -> AsyncIterator[Event]:
    """The asynchronous version of `stream`."""
    body.stream = True
    async with client.get_async_httpx_client().stream(**operation._get_kwargs(body=body)) as response:
        if response.status_code != 200:
            await response.aread()
            raise Refused(operation._parse_response(client=client, response=response))
        with _Reader() as reader:
            async for line in response.aiter_lines():
                if event := reader.read(line):
                    yield event


class _Reader:
    """Parses the lines of a stream. Its context raises `CutOff` if the stream ends, or its connection breaks, without the last event."""

    def __init__(self) -> None:
        self._is_over = False

    def read(self, line: str) -> Event | None:
        """Parse a line. Comments, which keep a stream alive, and OpenAI's final `[DONE]` are not events."""
        self._is_over = self._is_over or line == DONE
        if not line.startswith("data: ") or line == DONE:
            return None
        data = json.loads(line.removeprefix("data: "))
        if "choices" in data:
            return CompletionChunk.from_dict(data)
        event = GenerateEvent.from_dict(data)
        self._is_over = self._is_over or bool(event.finish_reason)
        return event

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) or (error is None and not self._is_over):
            raise CutOff from error
