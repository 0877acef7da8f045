"""The requests of the load: each kind several times, with fixed seeds, so that every answer can be compared with that of a lone run.

Requests of one kind to the LLM differ in length: where the texts are not reproducible (see `docs/operating.md`), the number of tokens
tells whether an answer belongs to its request.
"""

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.engines import SCORED_TEXTS
from models.engines.openvino import OpenVINOConfig

PROJECT = Path(__file__).resolve().parents[2]
PASSAGES = sorted({json.loads(line)["context"] for line in (PROJECT / "data/quickstart/train.jsonl").read_text().splitlines()})
VARIANTS = 8
"""The number of different requests of each kind."""
TIMEOUT_SECONDS = 60
"""The default of TRIGEN_TIMEOUT_SECONDS."""


@dataclass(frozen=True)
class LoadRequest:
    """A request, and what is known about its answer."""

    kind: str
    path: str
    body: dict[str, Any] | None = None
    """The body of a POST request; a GET request has none."""
    timeout: float | None = None
    """The header X-Request-Timeout."""

    @property
    def model(self) -> str | None:
        """The model that answers, if any."""
        native = {"/generate_text": "bigram", "/generate_with_rnn": "rnn", "/generate_with_llm": "llm", "/answer_question": "llm"}
        return self.body["model"] if self.body and "model" in self.body else native.get(self.path)

    @property
    def stream(self) -> bool:
        """Whether the answer is a stream of events."""
        return bool(self.body and self.body.get("stream"))

    @property
    def limit(self) -> float:
        """The time limit in seconds."""
        return min(self.timeout or TIMEOUT_SECONDS, TIMEOUT_SECONDS)

    @property
    def prompts(self) -> list[str]:
        """The prompts of a completion."""
        prompt = self.body["prompt"] if self.body else []
        return prompt if isinstance(prompt, list) else [prompt]


@dataclass(frozen=True)
class Kind:
    """A kind of requests, of which `weight` among all weights are sent."""

    name: str
    weight: float
    path: str
    body: Callable[[int], dict[str, Any] | None] = field(default=lambda number: None)
    timeout: float | None = None

    def request(self, number: int) -> LoadRequest:
        """Return the variant with this number."""
        return LoadRequest(self.name, self.path, self.body(number), self.timeout)


def prompt(number: int, words: int = 8) -> str:
    """Return the first words of a passage."""
    return " ".join(PASSAGES[number % len(PASSAGES)].split()[:words])


def native(length: int, step: int, *, stream: bool = False, **fields: Any) -> Callable[[int], dict[str, Any]]:
    """Return the bodies of a native route, the first of `length` tokens and each `step` tokens longer than the one before."""
    return lambda number: {
        "start_word": prompt(number),
        "length": length + step * number,
        "seed": 1_000 * length + number,
        "stream": stream,
        **fields,
    }


def completion(model: str, max_tokens: int, step: int, prompts: int = 1, **fields: Any) -> Callable[[int], dict[str, Any]]:
    """Return the bodies of `/v1/completions`."""
    return lambda number: {
        "model": model,
        "prompt": [prompt(number + text) for text in range(prompts)],
        "max_tokens": max_tokens and max_tokens + step * number,
        "seed": 1_000 * max_tokens + 10_000 * number,
        **fields,
    }


def question(number: int) -> dict[str, Any]:
    """Return a body of `/answer_question`."""
    return {"question": f"What is number {number}?", "context": f"Number {number}: {PASSAGES[number]}"}


def longer_question(number: int) -> dict[str, Any]:
    """Return a question to `/generate_with_llm`."""
    return native(25, 2)(number) | {"start_word": f"What is number {number}?", "context": PASSAGES[number]}


KINDS = (
    Kind("bigram", 12, "/generate_text", native(20, 10)),
    Kind("bigram, streamed", 8, "/generate_text", native(20, 10, stream=True)),
    Kind("LSTM", 10, "/generate_with_rnn", native(20, 10)),
    Kind("LSTM, streamed", 8, "/generate_with_rnn", native(25, 10, stream=True)),
    Kind("LSTM, short timeout", 2, "/generate_with_rnn", native(400, 10), timeout=0.5),
    Kind("LLM", 3, "/generate_with_llm", native(10, 2)),
    Kind("LLM, streamed", 3, "/generate_with_llm", native(11, 2, stream=True)),
    Kind("LLM, question", 1, "/generate_with_llm", longer_question),
    Kind("LLM, short timeout", 1, "/generate_with_llm", native(200, 2), timeout=2.5),
    Kind("LLM, streamed, short timeout", 1, "/generate_with_llm", native(201, 2, stream=True), timeout=2.5),
    Kind("answer", 2, "/answer_question", question),
    Kind("completion: bigram, n=4, logprobs", 4, "/v1/completions", completion("bigram", 20, 5, n=4, logprobs=2)),
    Kind("completion: bigram, echo, streamed", 4, "/v1/completions", completion("bigram", 20, 5, 3, echo=True, logprobs=1, stream=True)),
    Kind("completion: LSTM, n=4", 3, "/v1/completions", completion("rnn", 20, 5, n=4)),
    Kind("completion: LSTM, echo, logprobs", 2, "/v1/completions", completion("rnn", 10, 5, 2, echo=True, logprobs=2)),
    Kind("completion: LSTM, n=2, streamed", 3, "/v1/completions", completion("rnn", 20, 5, n=2, stream=True)),
    Kind("completion: LSTM, 128 texts", 0.5, "/v1/completions", completion("rnn", 16, 2, 16, n=8)),
    Kind("completion: LLM, n=2, streamed", 1, "/v1/completions", completion("llm", 10, 2, n=2, stream=True)),
    Kind("completion: LLM, echo", 1, "/v1/completions", completion("llm", 11, 2, echo=True)),
    Kind("completion: LLM, scored", 1, "/v1/completions", completion("llm", 0, 0, 2, echo=True, logprobs=1)),
    Kind("info", 2, "/info"),
    Kind("models", 2, "/v1/models"),
    Kind("model", 1, "/v1/models/llm"),
    Kind("document", 1, "/docs.json"),
    Kind("metrics", 1, "/metrics"),
    Kind("ready", 1, "/readyz"),
)


def all_requests() -> list[LoadRequest]:
    """Return every request of the load once."""
    return [kind.request(number) for kind in KINDS for number in range(VARIANTS if kind.body(0) else 1)]


def mixed(seed: int, kinds: Sequence[Kind] = KINDS) -> Iterator[LoadRequest]:
    """Yield requests without end, each kind as often as its weight says."""
    random_numbers = random.Random(seed)
    weights = list(itertools.accumulate(kind.weight for kind in kinds))
    while True:
        kind = random_numbers.choices(kinds, cum_weights=weights)[0]
        yield kind.request(random_numbers.randrange(VARIANTS))


MANY_TEXTS = LoadRequest("128 LSTM texts", "/v1/completions", completion("rnn", 256, 0, 16, n=8)(0))
"""One call that generates as many texts as the LSTM admits."""


def cache_fillers() -> Iterator[LoadRequest]:
    """Yield requests that fill what the LLM's engine keeps, so that its memory stays the same afterwards. All their prompts differ.

    The key-value cache grows up to its limit: 96 long prompts. OpenVINO compiles kernels for each number of tokens in a step and keeps
    them (https://github.com/openvinotoolkit/openvino/issues/23316): one prompt of each length that fits a step. The model that reads
    log-probabilities keeps its buffers: as many texts as it reads at once, each as long as a step.
    """
    random_numbers = random.Random(0)

    def prompt(tokens: int) -> list[int]:
        return random_numbers.choices(range(1, 8_000), k=tokens)

    long = [[prompt(1_000) for _ in range(4)] for _ in range(24)]
    of_each_length = [prompt(tokens) for tokens in range(1, OpenVINOConfig.step_tokens + 1)]
    for prompts in long + of_each_length:
        yield LoadRequest("cache filler", "/v1/completions", {"model": "llm", "prompt": prompts, "max_tokens": 1})
    scored = [prompt(OpenVINOConfig.step_tokens) for _ in range(SCORED_TEXTS)]
    yield LoadRequest("cache filler", "/v1/completions", {"model": "llm", "prompt": scored, "max_tokens": 0, "echo": True, "logprobs": 1})
