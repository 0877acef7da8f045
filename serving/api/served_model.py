"""A model as the routes use it: with its tag, its admission and its metrics."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai

from models.base import Prompt, PromptLogprobs, PromptTooLong, TextModel, Token, UnknownIds
from models.engines import EngineBusy, EngineStopped
from serving.admission import Admission
from serving.api.completion_schemas import ModelName
from serving.observability.metrics import ModelMetrics, TextMeasurement
from serving.observability.tracing import Phases, phases
from serving.problems import Problem, invalid_field
from serving.settings import settings

COUNTED_AT_ONCE = 1_000
"""A longer prompt, in characters or ids, is tokenized in a thread; for a shorter one, the way to the thread takes longer."""

M = TypeVar("M", bound=TextModel)
M_co = TypeVar("M_co", bound=TextModel, covariant=True)
T = TypeVar("T")


@dataclass(frozen=True)
class ServedModel(Generic[M_co]):
    """A model with what its routes need."""

    name: ModelName
    model: M_co
    tag: str
    """The model's tag in BentoML's model store, which names it in responses."""
    admission: Admission
    metrics: ModelMetrics

    async def count(self, prompt: Prompt) -> int:
        """Return the number of tokens in `prompt`. Raises `UnknownIds`."""
        return self.model.count(prompt) if len(prompt) <= COUNTED_AT_ONCE else await asyncio.to_thread(self.model.count, prompt)


def serve_model(name: ModelName, model: M, tag: str) -> ServedModel[M]:
    """Return a model with the limits of the settings."""
    metrics, limits = ModelMetrics(name, tag), settings()
    limit = limits.max_bigram_texts if name == "bigram" else limits.max_texts
    return ServedModel(name, model, tag, Admission(name, limit, limits.max_waiting, observer=metrics), metrics)


@dataclass
class Generation(Generic[M_co]):
    """One request's way through a model: it waits for admission, and then generates its texts."""

    served: ServedModel[M_co]
    prompt_field: str
    """The field of the request that errors about the prompt name."""
    texts: list[TextMeasurement] = field(default_factory=list)

    def text(self, items: AsyncGenerator[T], prompt_tokens: int, *, streamed: bool) -> AsyncGenerator[T]:
        """Return the `items` of one text, which are measured; the model's errors become `Problem`s."""
        return self._items(items, self.measure(prompt_tokens, streamed=streamed))

    def measure(self, prompt_tokens: int, *, streamed: bool) -> TextMeasurement:
        """Return the measurement of one more text."""
        self.texts.append(TextMeasurement(self.served.metrics, prompt_tokens, streamed=streamed))
        return self.texts[-1]

    async def _items(self, items: AsyncGenerator[T], measurement: TextMeasurement) -> AsyncGenerator[T]:
        with self.problems(), measurement:
            async with aclosing(items):
                async for item in items:
                    if isinstance(item, Token | PromptLogprobs):
                        measurement.see(item)
                    yield item

    async def admitted(self, items: AsyncGenerator[T]) -> AsyncGenerator[T]:
        """Yield `items` while holding a slot for the texts. Raises `Problem` (429) if too many texts wait already."""
        async with self.slot() as traced, aclosing(items):
            async for item in items:
                if traced:
                    traced.begin("decode")
                yield item

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[Phases | None]:
        """Wait for a slot for the texts and hold it until the end of the context. Yields the request's phases if it is traced."""
        served = self.served
        with phases(served.name, served.tag) as traced:
            async with served.admission.slot(len(self.texts)):
                if traced:
                    traced.begin("prefill")
                    traced.set(gen_ai.GEN_AI_USAGE_INPUT_TOKENS, sum(text.prompt_tokens for text in self.texts))
                try:
                    yield traced
                finally:
                    if traced:
                        traced.set(gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS, sum(text.new_tokens for text in self.texts))
                        traced.set(gen_ai.GEN_AI_RESPONSE_FINISH_REASONS, [text.finish_reason or "abort" for text in self.texts])

    @contextmanager
    def problems(self) -> Generator[None]:
        """Raise the model's errors as `Problem`: 422 for a wrong prompt, 503 if its engine is full or has stopped."""
        served = self.served
        try:
            yield
        except PromptTooLong as error:
            raise invalid_field(self.prompt_field, str(error), "context_length_exceeded") from None
        except UnknownIds as error:
            raise invalid_field(self.prompt_field, str(error), "unknown_ids") from None
        except EngineBusy as error:
            served.metrics.count_rejection("cache_full")
            seconds = str(served.admission.retry_seconds(len(self.texts)))
            raise Problem(503, f"{served.tag} is busy: {error}", headers={"retry-after": seconds}) from error
        except EngineStopped as error:
            served.metrics.count_rejection("unavailable")
            raise Problem(503, f"{served.tag} is unavailable: {error}") from error
