"""From a request to its answer, whichever model writes it."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.responses import Response

from models.base import PromptTooLong, SamplingParams, TextModel, Token
from models.engines import EngineStopped
from models.llm import LLM
from serving.problems import Problem, invalid_field
from serving.schemas import AnswerResponse, GenerateResponse, sampling_params
from serving.streaming import event_stream

Generated = GenerateResponse | Response
"""The whole text, or its events as they come."""


async def continue_text(model: TextModel, tag: str, start_word: str, stream: bool, **sampling: Any) -> Generated:
    """Continue a prompt. `sampling` are the other fields of `GenerateRequest`; `tag` names the model in the answer."""
    params = sampling_params(**sampling, stream=stream)
    with _problems("start_word", tag):
        return await _generate(model.stream(start_word, params), tag, start_word, params, stream)


async def continue_or_answer(model: LLM, tag: str, start_word: str, context: str | None, stream: bool, **sampling: Any) -> Generated:
    """Ask a prompt that ends in a question mark through the question-answering template; continue any other as text.

    A context without a question is refused: it would have no effect.
    """
    if start_word.rstrip().endswith("?"):
        params = sampling_params(**sampling, stream=stream, greedy=True)
        with _problems("start_word" if context is None else "context", tag):
            return await _generate(model.ask(start_word, context, params), tag, start_word, params, stream)
    if context is not None:
        raise invalid_field("context", "goes with a start_word that ends in a question mark", "context_without_question")
    return await continue_text(model, tag, start_word, stream, **sampling)


async def answer_question(model: LLM, tag: str, question: str, context: str, length: int) -> AnswerResponse:
    """Answer from a passage, in at most `length` tokens."""
    with _problems("context", tag):
        answer = await model.answer(question, context, length)
    return AnswerResponse(answer=answer.answer, score=answer.score, start=answer.start, end=answer.end, model=tag)


async def _generate(tokens: AsyncGenerator[Token], tag: str, start_word: str, params: SamplingParams, stream: bool) -> Generated:
    if stream:
        return await event_stream(tokens, seed=params.seed, model=tag)
    generated = [token async for token in tokens]
    return GenerateResponse(
        generated_text=start_word + "".join(token.text for token in generated),
        finish_reason=generated[-1].finish_reason,
        new_tokens=sum(token.count for token in generated),
        seed=params.seed,
        model=tag,
    )


@contextmanager
def _problems(longest: str, tag: str) -> Iterator[None]:
    """What a model raises, as the `Problem` to answer with: 422 for the field to shorten where its prompt is too long, 503 where it
    does not work any more.
    """
    try:
        yield
    except PromptTooLong as error:
        raise invalid_field(longest, str(error), "prompt_too_long") from None
    except EngineStopped as error:
        raise Problem(503, f"{tag} cannot answer: {error}") from error
