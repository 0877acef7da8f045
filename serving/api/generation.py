"""Generation with any of the models, as a whole text or as a stream."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict
from typing import Any

from starlette.responses import Response

from models.answering.answers import AnswerOptions
from models.answering.prompts import is_question
from models.base import SamplingParams, TextModel, Token
from models.llm import LLM
from serving.api.schemas import AnswerCandidate, AnswerResponse, GenerateEvent, GenerateResponse, sampling_params
from serving.api.served_model import Generation, ServedModel
from serving.streaming import EventStream, ServiceStopping, stream_problem


async def continue_text(served: ServedModel[TextModel], start_word: str, stream: bool, **sampling: Any) -> GenerateResponse | Response:
    """Continue a prompt. `sampling` holds the other fields of `GenerateRequest`."""
    params = sampling_params(**sampling, stream=stream)
    return await _respond(served, start_word, served.model.stream(start_word, params), "start_word", start_word, params, stream)


async def continue_or_answer(
    served: ServedModel[LLM], start_word: str, context: str | None, stream: bool, **sampling: Any
) -> GenerateResponse | Response:
    """Answer a prompt that ends in a question mark, using the question-answering template; continue any other, after `context` if given."""
    asks = is_question(start_word)
    params = sampling_params(**sampling, stream=stream, greedy_by_default=asks)
    if asks:
        prompt = served.model.question_prompt(start_word, context)
        tokens = served.model.ask(start_word, context, params)
    else:
        prompt = f"{context}\n{start_word}" if context else start_word
        tokens = served.model.stream(prompt, params)
    return await _respond(served, prompt, tokens, "context" if context else "start_word", start_word, params, stream)


async def answer_question(served: ServedModel[LLM], question: str, context: str, answers: int, **options: Any) -> AnswerResponse:
    """Answer a question from a passage, or decline. `options` are the other fields of `AnswerOptions`."""
    generation = Generation(served, "context")
    prompt = served.model.question_prompt(question, context)
    text = generation.measure(await served.count(prompt), streamed=False)
    async with generation.slot():
        with generation.problems(), text:
            answer = await served.model.answer(question, context, AnswerOptions(count=answers, **options))
            text.see(Token(answer.answer or "", finish_reason="stop" if answer.ended else "length", count=answer.tokens))
    served.metrics.count_answer(answer.score, "none" if answer.answer is None else "false" if answer.start is None else "true")
    return AnswerResponse(
        answer=answer.answer,
        score=answer.score,
        start=answer.start,
        end=answer.end,
        likelihood=answer.likelihood,
        no_answer_probability=answer.no_answer_probability,
        answers=[AnswerCandidate(**asdict(candidate)) for candidate in answer.candidates],
        model=served.tag,
    )


async def _respond(
    served: ServedModel[Any],
    prompt: str,
    tokens: AsyncGenerator[Token],
    prompt_field: str,
    start_word: str,
    params: SamplingParams,
    stream: bool,
) -> GenerateResponse | Response:
    """Generate `tokens` once they are admitted. `prompt` is what the model reads; errors about it name `prompt_field`."""
    generation = Generation(served, prompt_field)
    tokens = generation.admitted(generation.text(tokens, await served.count(prompt), streamed=stream))
    if stream:
        return await EventStream.open(tokens, lambda tokens: _events(tokens, seed=params.seed, model=served.tag))
    generated = [token async for token in tokens]
    return GenerateResponse(
        generated_text=start_word + "".join(token.text for token in generated),
        finish_reason=generated[-1].finish_reason,
        new_tokens=sum(token.count for token in generated),
        seed=params.seed,
        model=served.tag,
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
