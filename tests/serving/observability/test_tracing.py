"""The spans of a request, without a server."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from models.base import SamplingParams, Token
from models.bigram import Bigram
from serving.api.served_model import Generation, ServedModel, serve_model
from serving.observability.tracing import TracingMiddleware
from serving.problems import Problem


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    BentoMLContainer.tracer_provider.set(provider)
    yield exporter
    BentoMLContainer.tracer_provider.reset()


@pytest.fixture
def served() -> ServedModel[Bigram]:
    return serve_model("bigram", Bigram.fit(["a b a b a c"]), "trigen-bigram:test")


def generate(served: ServedModel[Bigram], tokens: AsyncGenerator[Token] | None = None) -> None:
    """Generate a text of three words within a request's span."""

    async def main() -> None:
        generation = Generation(served, "prompt")
        items = generation.text(tokens or served.model.stream("a", SamplingParams(3)), 1, streamed=True)
        async for _ in generation.admitted(items):
            pass

    with BentoMLContainer.tracer_provider.get().get_tracer("test").start_as_current_span("request"):
        asyncio.run(main())


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_has_a_span_for_each_phase(exporter: InMemorySpanExporter, served: ServedModel[Bigram]) -> None:
    generate(served)
    found = spans(exporter)
    assert list(found) == ["queue", "prefill", "decode", "request"]
    request = found.pop("request")
    for before, after in (("queue", "prefill"), ("prefill", "decode")):
        assert (found[before].end_time or 0) <= (found[after].start_time or 0)
    for span in found.values():
        assert span.parent
        assert span.parent.span_id == request.context.span_id
        assert span.attributes
        assert span.attributes["gen_ai.request.model"] == "bigram"
        assert span.attributes["gen_ai.response.model"] == "trigen-bigram:test"
    prefill, decode = found["prefill"].attributes, found["decode"].attributes
    assert prefill
    assert prefill["gen_ai.usage.input_tokens"] == 1
    assert decode
    assert decode["gen_ai.usage.output_tokens"] == 3
    assert decode["gen_ai.response.finish_reasons"] == ("length",)


def test_the_phase_in_which_a_request_fails_says_so(exporter: InMemorySpanExporter, served: ServedModel[Bigram]) -> None:
    async def failing() -> AsyncGenerator[Token]:
        raise Problem(503, "broken")
        yield

    with pytest.raises(Problem):
        generate(served, failing())
    found = spans(exporter)
    assert list(found) == ["queue", "prefill", "request"]
    assert not found["prefill"].status.is_ok
    assert found["queue"].status.is_ok or found["queue"].status.is_unset


def test_nothing_is_traced_outside_a_sampled_request(exporter: InMemorySpanExporter, served: ServedModel[Bigram]) -> None:
    async def main() -> None:
        generation = Generation(served, "prompt")
        items = generation.text(served.model.stream("a", SamplingParams(3)), 1, streamed=True)
        assert [token.count async for token in generation.admitted(items)] == [1, 1, 1]

    asyncio.run(main())
    assert spans(exporter) == {}


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_request_is_recorded_only_if_it_is_sampled_and_always_belongs_to_the_clients_trace(
    exporter: InMemorySpanExporter, flags: str
) -> None:
    seen: list[trace.SpanContext] = []

    async def app(*_: object) -> None:
        seen.append(trace.get_current_span().get_span_context())

    async def unused(*_: object) -> Any:
        raise AssertionError

    middleware = TracingMiddleware(app, tracer_provider=BentoMLContainer.tracer_provider.get())
    parent = f"00-{1:032x}-{2:016x}-{flags}"
    scope = {"type": "http", "method": "GET", "path": "/", "server": ("127.0.0.1", 1), "headers": [(b"traceparent", parent.encode())]}
    asyncio.run(middleware(scope, unused, unused))
    assert seen[0].trace_id == 1
    assert seen[0].is_valid
    assert seen[0].span_id != 2
    assert len(exporter.get_finished_spans()) == int(flags)
