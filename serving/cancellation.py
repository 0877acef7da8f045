"""Stop working on a request when its client disconnects or its time is up, as vLLM's `with_cancellation` does
(https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/utils.py).
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from serving.problems import Problem

T = TypeVar("T")


async def with_cancellation(handler: Coroutine[Any, Any, T], request: Request, timeout: float) -> T:
    """Return the result of `handler`, or cancel it and raise `Problem`: 400 if the client disconnects first, 504 after `timeout` seconds.

    The handler reads the body itself and sets `request.state.body_read` afterwards.
    """
    request.state.body_read = asyncio.Event()
    work = asyncio.ensure_future(handler)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait([work, disconnect], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if disconnect.done():
            raise Problem(400, "The client disconnected before the response was ready.")
        raise Problem.timeout(timeout)
    finally:
        work.cancel()
        disconnect.cancel()
        await asyncio.wait([disconnect])  # a streaming response calls `receive` itself, and only one task may wait in it


async def _wait_for_disconnect(request: Request) -> None:
    """Return when the client disconnects. Before the body has been read, `receive` would take chunks of it from the handler."""
    await request.state.body_read.wait()
    while (await request.receive())["type"] != "http.disconnect":
        pass
