"""Prometheus metrics of the models. Those that vLLM has too (https://docs.vllm.ai/en/latest/usage/metrics/) have its names and meanings."""

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self, get_args

from models.base import FinishReason, PromptLogprobs, Token

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)
"""Buckets: a bigram's text takes milliseconds, the LLM's up to a minute."""
TOKEN_SECONDS = (0.00001, 0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
SCORES = tuple(step / 10 for step in range(1, 11))
Span = Literal["true", "false", "none"]
SPANS: tuple[Span, ...] = get_args(Span)
"""Values of the label `span` of `trigen_answers_total`."""
REJECTIONS = ("busy", "cache_full", "unavailable")
"""Reasons of `trigen_rejected_total`: too many texts were waiting, the engine had no room, or the engine had stopped."""


@dataclass(frozen=True)
class Collectors:
    """All metrics of the models. Each has the label `model_name`."""

    time_to_first_token: "Histogram"
    inter_token_latency: "Histogram"
    time_per_output_token: "Histogram"
    latency: "Histogram"
    queue_time: "Histogram"
    prefill_time: "Histogram"
    decode_time: "Histogram"
    running: "Gauge"
    waiting: "Gauge"
    cache_usage: "Gauge"
    engine_ready: "Gauge"
    engine_restarts: "Counter"
    success: "Counter"
    prompt_tokens: "Counter"
    generation_tokens: "Counter"
    rejected: "Counter"
    answer_score: "Histogram"
    answers: "Counter"
    info: "Gauge"


@functools.cache
def collectors() -> Collectors:
    """Return the metrics of this process.

    prometheus_client is imported here, because it decides where it keeps them when it is imported: see `configure_metrics`.
    """
    from prometheus_client import Counter, Gauge, Histogram

    def seconds(name: str, documentation: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(f"vllm:{name}_seconds", documentation, ["model_name"], buckets=buckets)

    def gauge(name: str, documentation: str, mode: Literal["livesum", "livemin"] = "livesum") -> Gauge:
        return Gauge(name, documentation, ["model_name"], multiprocess_mode=mode)

    def counter(name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, ["model_name", *labels])

    return Collectors(
        time_to_first_token=seconds(
            "time_to_first_token", "Time from a request to the first token of a text, where tokens come one by one."
        ),
        inter_token_latency=seconds("inter_token_latency", "Time between two tokens of a stream.", TOKEN_SECONDS),
        time_per_output_token=seconds("request_time_per_output_token", "Mean time between the tokens of a text.", TOKEN_SECONDS),
        latency=seconds("e2e_request_latency", "Time from a request to the end of a text."),
        queue_time=seconds("request_queue_time", "Time that a text waited for admission."),
        prefill_time=seconds("request_prefill_time", "Time from admission to the first token, where tokens come one by one."),
        decode_time=seconds("request_decode_time", "Time from the first token to the last, where tokens come one by one."),
        running=gauge("vllm:num_requests_running", "Texts that are being generated."),
        waiting=gauge("vllm:num_requests_waiting", "Texts that wait for admission."),
        cache_usage=gauge("vllm:kv_cache_usage_perc", "Used share of the KV cache; 1 means full."),
        engine_ready=gauge("trigen_engine_ready", "Whether the process of the model's engine answers requests: 1 or 0.", "livemin"),
        engine_restarts=counter("trigen_engine_restarts", "Replacements of the process of the model's engine."),
        success=counter("vllm:request_success", "Texts that have finished.", "finished_reason"),
        prompt_tokens=counter("vllm:prompt_tokens", "Tokens of prompts."),
        generation_tokens=counter("vllm:generation_tokens", "Generated tokens."),
        rejected=counter("trigen_rejected", "Requests that were rejected.", "reason"),
        answer_score=Histogram("trigen_answer_score", "Scores of the answers of /answer_question.", ["model_name"], buckets=SCORES),
        answers=counter(
            "trigen_answers",
            "Answers of /answer_question; span: whether the context contains the answer, or none if there is none.",
            "span",
        ),
        info=Gauge("trigen_model_info", "The model that is served, by its tag; always 1.", ["model_name", "tag"], multiprocess_mode="max"),
    )


class WatchedEngine(Protocol):
    """What the metrics show of an engine: see `models.engines.Engine`."""

    @property
    def ready(self) -> bool:
        """Whether the engine works on requests now."""
        ...

    @property
    def restarts(self) -> int:
        """How often the engine's process has been replaced."""
        ...


before_scrape: list[Callable[[], None]] = []
"""Update the metrics that have no event of their own."""
_updating = threading.Lock()


def update_metrics() -> None:
    """Update the metrics that have no event of their own; for whoever reads the metrics, in any thread."""
    with _updating:
        for update in before_scrape:
            update()


class ModelMetrics:
    """The metrics of one model. All its series exist from the beginning."""

    def __init__(self, model_name: str, tag: str) -> None:
        self._model_name = model_name
        all_models = collectors()
        all_models.info.labels(model_name, tag).set(1)
        self.time_to_first_token = all_models.time_to_first_token.labels(model_name)
        self.inter_token_latency = all_models.inter_token_latency.labels(model_name)
        self.time_per_output_token = all_models.time_per_output_token.labels(model_name)
        self.latency = all_models.latency.labels(model_name)
        self.queue_time = all_models.queue_time.labels(model_name)
        self.prefill_time = all_models.prefill_time.labels(model_name)
        self.decode_time = all_models.decode_time.labels(model_name)
        self._running = all_models.running.labels(model_name)
        self._waiting = all_models.waiting.labels(model_name)
        self.cache_usage = all_models.cache_usage.labels(model_name)
        reasons: tuple[FinishReason | str, ...] = ("length", "stop", "abort")
        self.success = {reason: all_models.success.labels(model_name, reason) for reason in reasons}
        self.prompt_tokens = all_models.prompt_tokens.labels(model_name)
        self.generation_tokens = all_models.generation_tokens.labels(model_name)
        self._rejected = {reason: all_models.rejected.labels(model_name, reason) for reason in REJECTIONS}
        self._answer_score = all_models.answer_score.labels(model_name)
        self._answers = {span: all_models.answers.labels(model_name, span) for span in SPANS}

    def watch_engine(self, engine: WatchedEngine) -> None:
        """Show the state of the model's engine from now on. The bigram has none, and therefore no such series."""
        ready = collectors().engine_ready.labels(self._model_name)
        restarts = collectors().engine_restarts.labels(self._model_name)
        counted = 0

        def update() -> None:
            nonlocal counted
            ready.set(engine.ready)
            total = engine.restarts
            restarts.inc(total - counted)
            counted = total

        before_scrape.append(update)

    def show_admission(self, running: int, waiting: int) -> None:
        """See `serving.admission.Observer`."""
        self._running.set(running)
        self._waiting.set(waiting)

    def count_rejection(self, reason: str) -> None:
        """Count a rejected request, for one of the reasons `REJECTIONS`."""
        self._rejected[reason].inc()

    def count_answer(self, score: float, span: Span) -> None:
        """Count an answer of `/answer_question`."""
        self._answer_score.observe(score)
        self._answers[span].inc()


class TextMeasurement:
    """Measures one text: create it when the request arrives, enter it when the text is admitted, show it every item, leave it at the end.

    An unstreamed text of the LLM arrives as one item, so there is no time of its first token: such a text counts only in the metrics of the
    queue and of the whole latency.
    """

    def __init__(self, metrics: ModelMetrics, prompt_tokens: int, *, streamed: bool) -> None:
        self.metrics, self.prompt_tokens = metrics, prompt_tokens
        self.new_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._streamed = streamed
        self._arrived = time.perf_counter()
        self._admitted = self._first = self._last = 0.0

    def __enter__(self) -> Self:
        self._admitted = time.perf_counter()
        self.metrics.queue_time.observe(self._admitted - self._arrived)
        self.metrics.prompt_tokens.inc(self.prompt_tokens)
        return self

    def see(self, item: PromptLogprobs | Token) -> None:
        """Take note of the next item of the text."""
        if isinstance(item, PromptLogprobs):
            return
        now = time.perf_counter()
        if not self._first:
            self._first = now
        elif self._streamed and item.count:
            self.metrics.inter_token_latency.observe((now - self._last) / item.count)
        self._last = now
        self.new_tokens += item.count
        self.finish_reason = item.finish_reason

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        metrics = self.metrics
        metrics.generation_tokens.inc(self.new_tokens)
        metrics.success[self.finish_reason or "abort"].inc()
        if not self.finish_reason:
            return
        metrics.latency.observe(self._last - self._arrived)
        if self._first < self._last or self.new_tokens == 1:
            metrics.time_to_first_token.observe(self._first - self._arrived)
            metrics.prefill_time.observe(self._first - self._admitted)
            metrics.decode_time.observe(self._last - self._first)
        if self._first < self._last and self.new_tokens > 1:
            metrics.time_per_output_token.observe((self._last - self._first) / (self.new_tokens - 1))
