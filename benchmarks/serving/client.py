"""Run a load against a server: a number of clients, each of which sends its next request as soon as it has an answer."""

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.serving.loads import GREEDY, OBJECTIVES, SAMPLING, SampleRequest

FIRST_ANSWER_TIMEOUT = 4
"""The timeout of the first answers, in multiples of the load's duration."""


@dataclass
class Outcome:
    """The times of one request, from `time.perf_counter`, and the events and tokens received."""

    started: float
    first_token: float | None = None
    finished: float | None = None
    events: int = 0
    tokens: int = 0

    def record(self, tokens: int = 0, events: int = 1) -> None:
        """Count tokens and events that have just arrived."""
        self.first_token = self.first_token or time.perf_counter()
        self.events += events
        self.tokens += tokens

    def meets(self, objectives: Mapping[str, float]) -> bool:
        """Return whether the request has finished and met all `objectives`, which are named as in `OBJECTIVES`."""
        if not self.finished or not self.first_token:
            return False
        latencies = {
            "ttft": self.first_token - self.started,
            "tpot": (self.finished - self.first_token) / max(1, self.tokens - 1),
            "e2el": self.finished - self.started,
        }
        return all(latencies[name] <= limit for name, limit in objectives.items())


Sender = Callable[[aiohttp.ClientSession, str, SampleRequest, Outcome], Any]
"""Send a request to the server at a URL and record the tokens as they arrive."""


@dataclass
class LoadResult:
    """The outcomes of a load's requests."""

    seconds: float
    outcomes: list[Outcome] = field(default_factory=list)

    def summary(self, load: str) -> dict[str, float]:
        """Return tokens/s, goodput in requests/s, numbers of answers, seconds to the first token and to the answer (p50, p99), and slowest
        over fastest.

        Goodput is the share of the answers that meet the objectives of `load`, times tokens/s over the mean number of tokens in an answer.
        Slowest over fastest compares the tokens/s of requests that started after the first answer: earlier ones find an idle server.

        A server that streams gets credit for the requests that the end of the load cut off. Their tokens are estimated from their events:
        one in the first event, and in each later one the average of the finished requests, assuming that a request's last event is half
        full. A server that does not stream is measured up to its last answer.
        """
        finished = [outcome for outcome in self.outcomes if outcome.finished]
        tokens, events = sum(outcome.tokens for outcome in finished), sum(outcome.events for outcome in finished)
        cut_off = [outcome for outcome in self.outcomes if outcome.events and not outcome.finished]
        tokens_per_event = (tokens - len(finished)) / (events - 1.5 * len(finished)) if events > 2 * len(finished) else 1.0
        cut_off_tokens = sum(outcome.tokens or 1 + (outcome.events - 1) * tokens_per_event for outcome in cut_off)
        seconds = self.seconds
        if finished and not cut_off:
            seconds = max(outcome.finished or 0.0 for outcome in finished) - min(outcome.started for outcome in self.outcomes)
        to_answer = [outcome.finished - outcome.started for outcome in finished if outcome.finished]
        to_first_token = [outcome.first_token - outcome.started for outcome in self.outcomes if outcome.first_token]
        first_answer = min((outcome.finished for outcome in finished if outcome.finished), default=0.0)
        steady = [outcome for outcome in finished if outcome.started > first_answer] or finished
        rates = [outcome.tokens / (outcome.finished - outcome.started) for outcome in steady if outcome.finished]
        tokens_per_second = (tokens + cut_off_tokens) / seconds
        good = sum(outcome.meets(OBJECTIVES[load]) for outcome in finished)
        return {
            "tokens_per_second": tokens_per_second,
            "goodput": tokens_per_second * good / tokens if tokens else 0.0,  # good / answers * tokens_per_second / (tokens / answers)
            "answers": len(finished),
            "cut_off": len(self.outcomes) - len(finished),
            **{f"first_token_p{percent}": quantile(to_first_token, percent) for percent in (50, 99)},
            **{f"answer_p{percent}": quantile(to_answer, percent) for percent in (50, 99)},
            "slowest_over_fastest": min(rates) / max(rates) if rates else float("nan"),
        }


def quantile(values: list[float], percent: int) -> float:
    """Return the percentile `percent` of `values`, or NaN if there are none."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def run_load(url: str, send: Sender, load: Iterator[SampleRequest], concurrency: int, seconds: float) -> LoadResult:
    """Send the requests of `load` from `concurrency` clients for `seconds`, or until the first answer if that takes longer.

    Up to two warm-up requests come first and do not count. The requests in flight at the end are cut off.
    """
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        async with asyncio.timeout(FIRST_ANSWER_TIMEOUT * seconds):
            await asyncio.gather(*(send(session, url, next(load), Outcome(0.0)) for _ in range(min(2, concurrency))))
        result, started = LoadResult(seconds), time.perf_counter()

        async def client() -> None:
            while True:
                outcome = Outcome(time.perf_counter())
                result.outcomes.append(outcome)
                await send(session, url, next(load), outcome)
                outcome.finished = time.perf_counter()

        clients = [asyncio.create_task(client()) for _ in range(concurrency)]
        done, _ = await asyncio.wait(clients, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        deadline = started + FIRST_ANSWER_TIMEOUT * seconds
        while not done and not any(outcome.finished for outcome in result.outcomes) and time.perf_counter() < deadline:
            await asyncio.sleep(0.5)
        result.seconds = time.perf_counter() - started
        failed = [task for task in clients if task.done()]
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for task in failed:
            task.result()
    return result


async def send_once(url: str, send: Sender, request: SampleRequest) -> None:
    """Send one request and wait for its answer."""
    async with aiohttp.ClientSession() as session:
        await send(session, url, request, Outcome(0.0))


async def send_to_trigen(session: aiohttp.ClientSession, url: str, request: SampleRequest, outcome: Outcome) -> None:
    """Send a question to `/answer_question` and a completion to `/generate_with_llm`, which streams."""
    if request.question:
        body: dict[str, Any] = {"question": request.question, "context": request.context}
        await _receive_answer(session, f"{url}/answer_question", body, outcome, request.length)
        return
    body = {"start_word": request.prompt, "length": request.length, "seed": request.seed, "stream": True} | SAMPLING
    last = json.loads((await _receive_events(session, f"{url}/generate_with_llm", body, outcome))[-1])
    if last["finish_reason"] == "error":
        raise RuntimeError(last["problem"])
    outcome.tokens = last["new_tokens"]


async def send_to_bigram(session: aiohttp.ClientSession, url: str, request: SampleRequest, outcome: Outcome) -> None:
    """Request twenty words from `/generate_text`."""
    await _receive_answer(session, f"{url}/generate_text", {"start_word": request.prompt, "length": 20}, outcome, 20)


async def send_to_litserve(session: aiohttp.ClientSession, url: str, request: SampleRequest, outcome: Outcome) -> None:
    """Send a request to litserve_server.py, which does not stream."""
    body = {"prompt": request.prompt, "length": request.length, "sampling": None if request.question else SAMPLING}
    await _receive_answer(session, f"{url}/predict", body, outcome, request.length)


def openai_sender(model: str, sampling: dict[str, Any] = SAMPLING, *, keep_alive: bool = True, **fields: Any) -> Sender:
    """Return a sender that streams from `/v1/completions`; `sampling` has the server's own parameter names, `fields` go into every body.

    Without `keep_alive`, each request has its own connection.
    """
    headers = None if keep_alive else {"Connection": "close"}

    async def send(session: aiohttp.ClientSession, url: str, request: SampleRequest, outcome: Outcome) -> None:
        params = GREEDY if request.question else sampling | {"seed": request.seed}
        body = {"model": model, "prompt": request.prompt, "max_tokens": request.length, "stream": True} | params | fields
        events = await _receive_events(session, f"{url}/v1/completions", body, outcome, headers)
        *_, last = (event for event in events if b'"usage":{' in event)
        outcome.tokens = json.loads(last)["usage"]["completion_tokens"]

    return send


async def _receive_answer(session: aiohttp.ClientSession, url: str, body: dict[str, Any], outcome: Outcome, tokens: int) -> None:
    async with session.post(url, json=body) as response:
        response.raise_for_status()
        await response.read()
        outcome.record(tokens)


async def _receive_events(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], outcome: Outcome, headers: Mapping[str, str] | None = None
) -> list[bytes]:
    """Return the data of a stream's events. They are split after the stream has ended, to leave the processors to the server."""
    received = bytearray()
    async with session.post(url, json=body, headers=headers) as response:
        response.raise_for_status()
        async for chunk in response.content.iter_any():
            outcome.record(events=chunk.count(b"data: "))
            received += chunk
    return bytes(received).split(b"data: ")[1:]
