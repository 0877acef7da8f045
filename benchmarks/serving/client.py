"""Puts a load to a server: so many at once, each as soon as the one before is answered, for so many seconds."""

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.serving.loads import GREEDY, SAMPLING, Ask

PATIENCE = 4
"""Times the seconds of a load that a first answer may take."""


@dataclass
class Outcome:
    """One request: when it began and ended, when its first token came, in how many events what came, and how many tokens these were."""

    began: float
    first: float | None = None
    ended: float | None = None
    events: int = 0
    tokens: int = 0

    def note(self, tokens: int = 0, events: int = 1) -> None:
        """So many have come, just now."""
        self.first = self.first or time.perf_counter()
        self.events += events
        self.tokens += tokens


Speaker = Callable[[aiohttp.ClientSession, str, Ask, Outcome], Any]
"""Asks a server at a URL, and notes the tokens as they come."""


@dataclass
class Measured:
    """What a load came to."""

    seconds: float
    outcomes: list[Outcome] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Tokens and answers a second; seconds to the first token and to the last (p50, p99); the slowest rate over the fastest.

        The rates are those of requests that began when all clients had long been asking: the very first find an idle server.
        Of a server that streams, what was cut off counts too: a first event with one token, and then as many an event as the others had
        between theirs and their last, which holds half as many. A server that answers when all is there is measured up to its last answer.
        """
        done = [outcome for outcome in self.outcomes if outcome.ended]
        tokens, events = sum(outcome.tokens for outcome in done), sum(outcome.events for outcome in done)
        cut_off = [outcome for outcome in self.outcomes if outcome.events and not outcome.ended]
        each = (tokens - len(done)) / (events - 1.5 * len(done)) if events > 2 * len(done) else 1.0
        seconds = self.seconds
        if done and not cut_off:
            seconds = max(outcome.ended or 0.0 for outcome in done) - min(outcome.began for outcome in self.outcomes)
        whole = [outcome.ended - outcome.began for outcome in done if outcome.ended]
        first = [outcome.first - outcome.began for outcome in self.outcomes if outcome.first]
        busy = min((outcome.ended for outcome in done if outcome.ended), default=0.0)
        steady = [outcome for outcome in done if outcome.began > busy] or done
        rates = [outcome.tokens / (outcome.ended - outcome.began) for outcome in steady if outcome.ended]
        return {
            "tokens_per_second": (tokens + sum(outcome.tokens or 1 + (outcome.events - 1) * each for outcome in cut_off)) / seconds,
            "answers": len(done),
            "cut_off": len(self.outcomes) - len(done),
            **{f"first_token_p{share}": quantile(first, share) for share in (50, 99)},
            **{f"answer_p{share}": quantile(whole, share) for share in (50, 99)},
            "slowest_over_fastest": min(rates) / max(rates) if rates else float("nan"),
        }


def quantile(values: list[float], percent: int) -> float:
    """NaN where there is nothing."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def put(url: str, speak: Speaker, load: Iterator[Ask], at_once: int, seconds: float) -> Measured:
    """Ask `at_once` clients' worth for `seconds`, and on until there is an answer, after two requests that do not count; what is under way
    then is cut off.
    """
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        async with asyncio.timeout(PATIENCE * seconds):
            await asyncio.gather(*(speak(session, url, next(load), Outcome(0.0)) for _ in range(min(2, at_once))))
        measured, began = Measured(seconds), time.perf_counter()

        async def client() -> None:
            while True:
                outcome = Outcome(time.perf_counter())
                measured.outcomes.append(outcome)
                await speak(session, url, next(load), outcome)
                outcome.ended = time.perf_counter()

        clients = [asyncio.create_task(client()) for _ in range(at_once)]
        done, _ = await asyncio.wait(clients, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        while not done and not any(outcome.ended for outcome in measured.outcomes) and time.perf_counter() - began < PATIENCE * seconds:
            await asyncio.sleep(0.5)
        measured.seconds = time.perf_counter() - began
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for failed in done:
            failed.result()
    return measured


async def speak_trigen(session: aiohttp.ClientSession, url: str, ask: Ask, outcome: Outcome) -> None:
    """`/answer_question` for a question, else `/generate_with_llm`, streaming."""
    if ask.question:
        await _whole(session, f"{url}/answer_question", {"question": ask.question, "context": ask.context}, outcome, ask.length)
        return
    body = {"start_word": ask.prompt, "length": ask.length, "seed": ask.seed, "stream": True} | SAMPLING
    last = json.loads((await _events(session, f"{url}/generate_with_llm", body, outcome))[-1])
    if last["finish_reason"] == "error":
        raise RuntimeError(last["problem"])
    outcome.tokens = last["new_tokens"]


async def speak_bigram(session: aiohttp.ClientSession, url: str, ask: Ask, outcome: Outcome) -> None:
    """`/generate_text`, twenty words."""
    await _whole(session, f"{url}/generate_text", {"start_word": ask.prompt, "length": 20}, outcome, 20)


async def speak_litserve(session: aiohttp.ClientSession, url: str, ask: Ask, outcome: Outcome) -> None:
    """What `litserve_server.py` takes; it answers when all is there."""
    body = {"prompt": ask.prompt, "length": ask.length, "sampling": None if ask.question else SAMPLING}
    await _whole(session, f"{url}/predict", body, outcome, ask.length)


def openai_speaker(model: str, sampling: dict[str, Any] = SAMPLING, **fields: Any) -> Speaker:
    """`/v1/completions`, streaming; `sampling` and `fields` are those that this server takes and needs beside the usual."""

    async def speak(session: aiohttp.ClientSession, url: str, ask: Ask, outcome: Outcome) -> None:
        drawing = GREEDY if ask.question else sampling | {"seed": ask.seed}
        body = {"model": model, "prompt": ask.prompt, "max_tokens": ask.length, "stream": True} | drawing | fields
        *_, last = (event for event in await _events(session, f"{url}/v1/completions", body, outcome) if b'"usage":{' in event)
        outcome.tokens = json.loads(last)["usage"]["completion_tokens"]

    return speak


async def _whole(session: aiohttp.ClientSession, url: str, body: dict[str, Any], outcome: Outcome, tokens: int) -> None:
    async with session.post(url, json=body) as answer:
        answer.raise_for_status()
        await answer.read()
        outcome.note(tokens)


async def _events(session: aiohttp.ClientSession, url: str, body: dict[str, Any], outcome: Outcome) -> list[bytes]:
    """The data of all events of a stream, read when it is over, so that the client takes little of the processors that generate."""
    received = bytearray()
    async with session.post(url, json=body) as answer:
        answer.raise_for_status()
        async for chunk in answer.content.iter_any():
            outcome.note(events=chunk.count(b"data: "))
            received += chunk
    return bytes(received).split(b"data: ")[1:]
