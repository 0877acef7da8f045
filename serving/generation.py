"""From a request to its answer, whichever model writes it."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

from models.base import PromptTooLong, SamplingParams, TextModel, Token
from models.engines import EngineStopped
from models.llm import LLM
from serving.problems import Problem, invalid_field
from serving.schemas import AnswerResponse, GenerateResponse, sampling_params


async def continue_text(model: TextModel, tag: str, start_word: str, **sampling: Any) -> GenerateResponse:
    """Continue a prompt. `sampling` are the fields of `GenerateRequest`; `tag` names the model in the answer."""
    params = sampling_params(**sampling)
    return await _complete(model.stream(start_word, params), tag, start_word, params)


async def continue_or_answer(model: LLM, tag: str, start_word: str, context: str | None, **sampling: Any) -> GenerateResponse:
    """Ask a prompt that ends in a question mark through the question-answering template; continue any other as text.

    A context without a question is refused: it would have no effect.
    """
    if start_word.rstrip().endswith("?"):
        params = sampling_params(**sampling, greedy=True)
        return await _complete(
            model.ask(start_word, context, params), tag, start_word, params, "start_word" if context is None else "context"
        )
    if context is not None:
        raise invalid_field("context", "goes with a start_word that ends in a question mark", "context_without_question")
    return await continue_text(model, tag, start_word, **sampling)


async def answer_question(model: LLM, tag: str, question: str, context: str, length: int) -> AnswerResponse:
    """Answer from a passage, in at most `length` tokens."""
    with _problems("context", tag):
        answer = await model.answer(question, context, length)
    return AnswerResponse(answer=answer.answer, score=answer.score, start=answer.start, end=answer.end, model=tag)


async def _complete(
    stream: AsyncGenerator[Token], tag: str, start_word: str, params: SamplingParams, longest: str = "start_word"
) -> GenerateResponse:
    """`longest` is the field to shorten where the prompt is too long."""
    with _problems(longest, tag):
        tokens = [token async for token in stream]
    return GenerateResponse(
        generated_text=start_word + "".join(token.text for token in tokens),
        finish_reason=tokens[-1].finish_reason,
        new_tokens=len(tokens),
        seed=params.seed,
        model=tag,
    )


@contextmanager
def _problems(field: str, tag: str) -> Iterator[None]:
    """What a model raises, as the `Problem` to answer with: 422 for the field that makes its prompt too long, 503 where it
    does not work any more.
    """
    try:
        yield
    except PromptTooLong as error:
        raise invalid_field(field, str(error), "prompt_too_long") from None
    except EngineStopped as error:
        raise Problem(503, f"{tag} cannot answer: {error}") from error
