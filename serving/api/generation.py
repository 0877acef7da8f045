"""From a request to its answer, whichever model writes it."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from starlette.responses import Response

from models.base import PromptTooLong, SamplingParams, TextModel, Token, UnknownIds
from models.engines import EngineStopped
from models.llm import LLM
from serving.api.schemas import AnswerResponse, GenerateEvent, GenerateResponse, ProblemDetails, sampling_params
from serving.problems import Problem, invalid_field
from serving.streaming import EventStream, ServiceStops, stream_problem

Generated = GenerateResponse | Response
"""The whole text, or its events as they come."""


async def continue_text(model: TextModel, tag: str, start_word: str, stream: bool, **sampling: Any) -> Generated:
    """Continue a prompt. `sampling` are the other fields of `GenerateRequest`; `tag` names the model in the answer."""
    params = sampling_params(**sampling, stream=stream)
    return await _generate(checked(model.stream(start_word, params), "start_word", tag), tag, start_word, params, stream)


async def continue_or_answer(model: LLM, tag: str, start_word: str, context: str | None, stream: bool, **sampling: Any) -> Generated:
    """Ask a prompt that ends in a question mark through the question-answering template; continue any other as text, in which `context`
    stands before it.
    """
    question = start_word.rstrip().endswith("?")
    params = sampling_params(**sampling, stream=stream, greedy=question)
    if question:
        tokens = model.ask(start_word, context, params)
    else:
        tokens = model.stream(f"{context}\n{start_word}" if context else start_word, params)
    return await _generate(checked(tokens, "context" if context else "start_word", tag), tag, start_word, params, stream)


async def answer_question(model: LLM, tag: str, question: str, context: str, length: int) -> AnswerResponse:
    """Answer from a passage, in at most `length` tokens."""
    with _problems("context", tag):
        answer = await model.answer(question, context, length)
    return AnswerResponse(answer=answer.answer, score=answer.score, start=answer.start, end=answer.end, model=tag)


async def _generate(tokens: AsyncGenerator[Token], tag: str, start_word: str, params: SamplingParams, stream: bool) -> Generated:
    if stream:
        return await EventStream.begin(tokens, lambda tokens: _events(tokens, seed=params.seed, model=tag))
    generated = [token async for token in tokens]
    return GenerateResponse(
        generated_text=start_word + "".join(token.text for token in generated),
        finish_reason=generated[-1].finish_reason,
        new_tokens=sum(token.count for token in generated),
        seed=params.seed,
        model=tag,
    )


async def _events(tokens: AsyncIterator[Token], **told: Any) -> AsyncGenerator[str]:
    """`GenerateEvent`s: one for each piece of text, and a last one that has `finish_reason`, `new_tokens` and what is `told`."""

    def event(**fields: Any) -> str:
        return GenerateEvent(**fields).model_dump_json(exclude_unset=True)

    count = 0
    try:
        async for token in tokens:
            count += token.count
            if token.finish_reason:
                yield event(text=token.text, finish_reason=token.finish_reason, new_tokens=count, **told)
            elif token.text:  # empty while a character is incomplete
                yield event(text=token.text)
    except ServiceStops:
        yield event(text="", finish_reason="cancelled", new_tokens=count, **told)
    except Exception as error:
        problem = ProblemDetails(**stream_problem(error).details)
        yield event(text="", finish_reason="error", new_tokens=count, problem=problem, **told)


async def checked(tokens: AsyncGenerator[Token], prompt: str, tag: str) -> AsyncGenerator[Token]:
    """Pass `tokens` on. What the model raises is the `Problem` to answer with: 422 for the field `prompt`, where that is too long or none;
    503 where the model, called `tag`, does not work any more.
    """
    with _problems(prompt, tag):
        async with aclosing(tokens):
            async for token in tokens:
                yield token


@contextmanager
def _problems(prompt: str, tag: str) -> Iterator[None]:
    try:
        yield
    except PromptTooLong as error:
        raise invalid_field(prompt, str(error), "context_length_exceeded") from None
    except UnknownIds as error:
        raise invalid_field(prompt, str(error), "unknown_ids") from None
    except EngineStopped as error:
        raise Problem(503, f"{tag} cannot answer: {error}") from error
