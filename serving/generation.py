"""From a request to its answer, whichever model writes it."""

from typing import Any

from models.base import PromptTooLong, TextModel
from models.engines import EngineStopped
from models.llm import LLM, question_prompt
from serving.problems import Problem, invalid_field
from serving.schemas import AnswerResponse, GenerateResponse, sampling_params


async def continue_text(
    model: TextModel, tag: str, start_word: str, *, prompt: str | None = None, greedy: bool = False, **sampling: Any
) -> GenerateResponse:
    """Continue `start_word`, or what the model is to read in its place; `greedy` is what an absent temperature means."""
    params = sampling_params(**sampling, greedy=greedy)
    try:
        tokens = [token async for token in model.stream(prompt or start_word, params)]
    except PromptTooLong as error:
        raise invalid_field("start_word", str(error), "prompt_too_long") from None
    except EngineStopped as error:
        raise Problem(503, f"{tag} cannot answer: {error}") from error
    return GenerateResponse(
        generated_text=start_word + "".join(token.text for token in tokens),
        finish_reason=tokens[-1].finish_reason or "length",
        new_tokens=len(tokens),
        seed=params.seed,
        model=tag,
    )


async def continue_or_answer(model: LLM, tag: str, start_word: str, context: str | None, **sampling: Any) -> GenerateResponse:
    """Ask a prompt that ends in a question mark through the question-answering template; continue any other as text.

    A context without a question is refused: it would have no effect.
    """
    if start_word.rstrip().endswith("?"):
        prompt = question_prompt(start_word, context)
        return await continue_text(model, tag, start_word, prompt=prompt, greedy=True, **sampling)
    if context is not None:
        raise invalid_field("context", "goes with a start_word that ends in a question mark", "context_without_question")
    return await continue_text(model, tag, start_word, **sampling)


async def answer_question(model: LLM, tag: str, question: str, context: str, length: int) -> AnswerResponse:
    """Answer from a passage."""
    try:
        answer = await model.answer(question, context, length)
    except PromptTooLong as error:
        raise invalid_field("context", str(error), "prompt_too_long") from None
    except EngineStopped as error:
        raise Problem(503, f"{tag} cannot answer: {error}") from error
    return AnswerResponse(answer=answer.answer, score=answer.score, start=answer.start, end=answer.end, model=tag)
