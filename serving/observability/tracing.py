"""OpenTelemetry spans of a request's way through a model: `queue`, `prefill` and `decode`, as children of the request's span.

Attributes follow the semantic conventions for generative AI (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/). BentoML
configures the exporter (its `tracing` settings); without a sampled request, nothing is recorded.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from bentoml._internal.configuration.containers import BentoMLContainer  # BentoML's provider is not OpenTelemetry's global one
from bentoml._internal.context import trace_context
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware, asgi_getter
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.trace import Span, Tracer
from opentelemetry.util.types import AttributeValue
from starlette.types import ASGIApp, Receive, Scope, Send

IDS = RandomIdGenerator()


class TracingMiddleware(OpenTelemetryMiddleware):
    """OpenTelemetry's middleware for sampled requests; the others only get their ids.

    BentoML records a span of every request for the sake of these ids, which takes a quarter of the service's own time for a question.
    With a `sample_rate` in BentoML's configuration, it does so here too.
    """

    def __init__(self, app: ASGIApp, /, **options: Any) -> None:
        # A span for each event would take a quarter of a stream's time.
        super().__init__(app, exclude_spans=["receive", "send"], **options)
        self._samples = bool(BentoMLContainer.tracing.sample_rate.get())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `ASGIApp`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parent = trace.get_current_span(extract(scope, getter=asgi_getter)).get_span_context()  # type: ignore[misc]
        if self._samples or parent.trace_flags.sampled:
            await super().__call__(scope, receive, send)
            return
        ids = trace.SpanContext(parent.trace_id or IDS.generate_trace_id(), IDS.generate_span_id(), is_remote=False)
        trace_context.request_id = ids.span_id
        with trace.use_span(trace.NonRecordingSpan(ids)):
            await self.app(scope, receive, send)


class Phases:
    """The phases of a request: each begins when the one before ends."""

    def __init__(self, tracer: Tracer, attributes: dict[str, AttributeValue]) -> None:
        self._tracer, self._attributes = tracer, attributes
        self._parent = trace.set_span_in_context(trace.get_current_span())
        self._name = ""
        self._span: Span = trace.INVALID_SPAN

    def begin(self, name: str) -> None:
        """Begin a phase, unless it has begun already."""
        if name != self._name:
            self.end()
            self._name, self._span = name, self._tracer.start_span(name, self._parent, attributes=self._attributes)

    def set(self, name: str, value: AttributeValue) -> None:
        """Set an attribute of the current phase."""
        self._span.set_attribute(name, value)

    def fail(self, error: BaseException) -> None:
        """Record the error that ends the request."""
        self._span.set_status(trace.StatusCode.ERROR, type(error).__name__)

    def end(self) -> None:
        """End the current phase."""
        self._span.end()


@contextmanager
def phases(model_name: str, tag: str) -> Generator[Phases | None]:
    """Trace the phases of the current request, beginning with `queue`; None if it is not sampled."""
    if not trace.get_current_span().is_recording():
        yield None
        return
    attributes: dict[str, AttributeValue] = {
        gen_ai.GEN_AI_OPERATION_NAME: gen_ai.GenAiOperationNameValues.TEXT_COMPLETION.value,
        gen_ai.GEN_AI_REQUEST_MODEL: model_name,
        gen_ai.GEN_AI_RESPONSE_MODEL: tag,
    }
    traced = Phases(trace.get_tracer("trigen", tracer_provider=BentoMLContainer.tracer_provider.get()), attributes)
    traced.begin("queue")
    try:
        yield traced
    except BaseException as error:
        traced.fail(error)
        raise
    finally:
        traced.end()
