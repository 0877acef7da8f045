"""The real service with models that pause where a test asks for it: `bentoml serve tests.serving.held_service:Trigen`.

While the file GATE exists, every text pauses after as many tokens as the file says. The file EVENTS gets a line when a text starts, and
another when it has finished, failed or been closed. With both, a test decides what happens first, however fast the machine is.
"""

import asyncio
import functools
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from models.bigram import Bigram
from models.llm import LLM
from models.rnn import RNN
from service import Trigen

__all__ = ["Trigen"]

GATE, EVENTS = Path(os.environ["TRIGEN_TEST_GATE"]), Path(os.environ["TRIGEN_TEST_EVENTS"])
POLL_SECONDS = 0.02


def log_event(event: str) -> None:
    with EVENTS.open("a") as file:
        file.write(f"{event}\n")


async def wait_at_gate(tokens: int) -> None:
    """Return when a text that has generated `tokens` tokens may go on."""
    while True:
        try:
            if tokens < int(GATE.read_text()):
                return
        except FileNotFoundError:
            return
        await asyncio.sleep(POLL_SECONDS)


def hold(stream: Callable[..., AsyncGenerator[Any]]) -> Callable[..., AsyncGenerator[Any]]:
    """Wrap a model's method so that its text pauses at the gate."""

    @functools.wraps(stream)
    async def held(*arguments: Any, **options: Any) -> AsyncGenerator[Any]:
        log_event("started")
        outcome, count = "failed", 0
        try:
            await wait_at_gate(count)
            async with aclosing(stream(*arguments, **options)) as tokens:
                async for token in tokens:
                    count += getattr(token, "count", 0)  # the log-probabilities of a prompt are no tokens
                    await wait_at_gate(count - 1)  # an unstreamed text may arrive as one token
                    yield token
                    await wait_at_gate(count)
            outcome = "finished"
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "closed"
            raise
        finally:
            log_event(outcome)

    return held


for model in (Bigram, RNN, LLM):
    for name in ("stream", "stream_with_prompt_logprobs", "ask"):
        if hasattr(model, name):
            setattr(model, name, hold(getattr(model, name)))
