"""Generation with any of the models, as a whole text or as a stream."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from starlette.responses import Response

from models.base import PromptTooLong, SamplingParams, TextModel, Token, UnknownIds
from models.engines import EngineStopped
from models.llm import LLM
from serving.api.schemas import AnswerResponse, GenerateEvent, GenerateResponse, sampling_params
from serving.problems import Problem, invalid_field
from serving.streaming import EventStream, ServiceStopping, stream_problem

T = TypeVar("T")


async def continue_text(model: TextModel, tag: str, start_word: str, stream: bool, **sampling: Any) -> GenerateResponse | Response:
    """Continue a prompt. `sampling` holds the other fields of `GenerateRequest`; `tag` names the model in the response."""
    params = sampling_params(**sampling, stream=stream)
    tokens = raise_problems(model.stream(start_word, params), "start_word", tag)
    return await _respond(tokens, tag, start_word, params, stream)


async def continue_or_answer(
    model: LLM, tag: str, start_word: str, context: str | None, stream: bool, **sampling: Any
) -> GenerateResponse | Response:
    """Answer a prompt that ends in a question mark, using the question-answering template; continue any other, after `context` if given."""
    is_question = start_word.rstrip().endswith("?")
    params = sampling_params(**sampling, stream=stream, greedy_by_default=is_question)
    if is_question:
        tokens = model.ask(start_word, context, params)
    else:
        tokens = model.stream(f"{context}\n{start_word}" if context else start_word, params)
    tokens = raise_problems(tokens, "context" if context else "start_word", tag)
    return await _respond(tokens, tag, start_word, params, stream)


async def answer_question(model: LLM, tag: str, question: str, context: str, length: int) -> AnswerResponse:
    """Answer a question from a passage, in up to `length` tokens."""
    with _problems("context", tag):
        answer = await model.answer(question, context, length)
    return AnswerResponse(answer=answer.answer, score=answer.score, start=answer.start, end=answer.end, model=tag)


async def raise_problems(items: AsyncGenerator[T], prompt_field: str, tag: str) -> AsyncGenerator[T]:
    """Yield the `items` of a model's stream, and raise the model's errors as `Problem`: 503 if the engine has stopped; 422, naming
    `prompt_field`, if the prompt is too long or contains unknown ids.
    """
    with _problems(prompt_field, tag):
        async with aclosing(items):
            async for item in items:
                yield item


@contextmanager
def _problems(prompt_field: str, tag: str) -> Iterator[None]:
    try:
        yield
    except PromptTooLong as error:
        raise invalid_field(prompt_field, str(error), "context_length_exceeded") from None
    except UnknownIds as error:
        raise invalid_field(prompt_field, str(error), "unknown_ids") from None
    except EngineStopped as error:
        raise Problem(503, f"{tag} is unavailable: {error}") from error


async def _respond(
    tokens: AsyncGenerator[Token], tag: str, start_word: str, params: SamplingParams, stream: bool
) -> GenerateResponse | Response:
    if stream:
        return await EventStream.open(tokens, lambda tokens: _events(tokens, seed=params.seed, model=tag))
    generated = [token async for token in tokens]
    return GenerateResponse(
        generated_text=start_word + "".join(token.text for token in generated),
        finish_reason=generated[-1].finish_reason,
        new_tokens=sum(token.count for token in generated),
        seed=params.seed,
        model=tag,
    )


async def _events(tokens: AsyncIterator[Token], **last_fields: Any) -> AsyncGenerator[str]:
    """Yield a `GenerateEvent` for each piece of text; the last one also has `finish_reason`, `new_tokens` and `last_fields`."""

    def event(**fields: Any) -> str:
        return GenerateEvent(**fields).model_dump_json(exclude_unset=True)

    count = 0
    try:
        async for token in tokens:
            count += token.count
            if token.finish_reason:
                yield event(text=token.text, finish_reason=token.finish_reason, new_tokens=count, **last_fields)
            elif token.text:  # empty while a character is incomplete
                yield event(text=token.text)
    except ServiceStopping:
        yield event(text="", finish_reason="cancelled", new_tokens=count, **last_fields)
    except Exception as error:
        yield event(text="", finish_reason="error", new_tokens=count, problem=stream_problem(error).details, **last_fields)
