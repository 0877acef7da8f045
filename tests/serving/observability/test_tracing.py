"""The spans of a request, without a server."""

import asyncio
from collections.abc import AsyncGenerator, Iterator

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from models.base import SamplingParams, Token
from models.bigram import Bigram
from serving.api.served_model import Generation, ServedModel, serve_model
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
