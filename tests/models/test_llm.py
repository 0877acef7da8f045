import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from models.answering.answers import DECLINED, AnswerOptions, AnswerSettings
from models.answering.prompts import ANSWER_FOLLOWS, answer_text, question_prompt
from models.base import Prompt, SamplingParams, Token
from models.engines import LogprobReader, ScoredSpan
from models.llm import LLM
from models.spans import SpanTrie


class Scripted:
    """An engine that generates a fixed text and records its last prompt and parameters."""

    alive, ready, restarts, running, steps, cache_usage = True, True, 0, 0, 0, 0.0
    tokenizer: Any = None
    limits: Any = None

    def __init__(self, *pieces: str) -> None:
        self.pieces, self.params = pieces, SamplingParams()
        self.prompt: Prompt = ""
        self.before: Sequence[int] = ()

    def logprob_reader(self) -> LogprobReader:
        pytest.fail("no log-probabilities were requested")

    async def best_spans(self, prompt: Sequence[int], trie: SpanTrie, count: int) -> list[ScoredSpan]:
        pytest.fail("no spans were requested")

    async def stream(self, prompt: Prompt, params: SamplingParams, before: Sequence[int] = ()) -> AsyncGenerator[Token]:
        self.prompt, self.params, self.before = prompt, params, before
        for piece in self.pieces:
            yield Token(piece, -0.1)
        yield Token("", -0.1, "stop")

    def close(self) -> None:
        pass


def test_the_question_template() -> None:
    assert question_prompt(" Who? ", " It was she. ") == "Context: It was she.\nQuestion: Who?\nAnswer:"
    assert question_prompt("Who?") == question_prompt("Who?", " ") == "Question: Who?\nAnswer:"
    assert question_prompt("Who?", "It was she.", "question-twice") == "Question: Who?\nContext: It was she.\nQuestion: Who?\nAnswer:"
    assert answer_text("she") == " she"


def test_the_document_start_precedes_a_text_but_not_a_question() -> None:
    async def first(stream: AsyncGenerator[Token]) -> None:
        await anext(stream)
        await stream.aclose()

    engine = Scripted("x")
    engine.tokenizer = Tokenizer(WordLevel({"<start>": 7}))
    model = LLM(engine, document_start="<start>")
    asyncio.run(first(model.stream("The", SamplingParams())))
    assert (engine.before, engine.prompt) == ((7,), "The")
    asyncio.run(first(model.stream([5], SamplingParams())))
    assert (engine.before, engine.prompt) == ((), [5])
    asyncio.run(first(model.ask("Who?", None, SamplingParams())))
    assert (engine.before, engine.prompt) == ((), question_prompt("Who?"))


def test_an_answer_is_greedy_and_a_span_of_the_context() -> None:
    engine = Scripted(" Mary", " Shelley")
    answer = asyncio.run(LLM(engine).answer("Who wrote it?", "It was Mary Shelley.", AnswerOptions(length=9)))
    assert (engine.params.temperature, engine.params.length) == (0, 9)
    assert engine.prompt == question_prompt("Who wrote it?", "It was Mary Shelley.")
    assert (answer.answer, answer.start, answer.end) == ("Mary Shelley", 7, 19)
    assert answer.score == pytest.approx(math.exp(-0.3))


@pytest.mark.parametrize("pieces", [(" Byron",), (" ",), ()], ids=["not in the context", "blank", "nothing"])
def test_an_answer_outside_the_context_has_no_offsets(pieces: tuple[str, ...]) -> None:
    answer = asyncio.run(LLM(Scripted(*pieces)).answer("Who wrote it?", "It was Mary Shelley."))
    assert (answer.start, answer.end) == (None, None)
    assert answer.answer == "".join(pieces).strip()


class Deciding(Scripted):
    """An engine that decides with the probability `declined` that there is no answer, and otherwise answers " Mary"."""

    def __init__(self, declined: float) -> None:
        super().__init__(" Mary")
        self.declined, self.prompts = declined, list[Prompt]()

    async def stream(self, prompt: Prompt, params: SamplingParams, before: Sequence[int] = ()) -> AsyncGenerator[Token]:
        self.prompts.append(prompt)
        if str(prompt).endswith(ANSWER_FOLLOWS):
            async for token in super().stream(prompt, params, before):
                yield token
        elif self.declined > 0.5:
            yield Token("", math.log(self.declined), "stop")
        else:
            yield Token(ANSWER_FOLLOWS, math.log(1 - self.declined))
            async for token in super().stream(prompt, params, before):
                yield token


@pytest.mark.parametrize(
    ("declined", "threshold", "answer", "requests"),
    [
        (0.2, None, "Mary", 1),
        (0.7, None, None, 1),
        (0.2, 0.1, None, 1),
        (0.7, 0.9, "Mary", 2),  # the model has declined, so the answer takes a second request
        (1.0, 1.0, "Mary", 2),
        (0.0, 0.0, "Mary", 1),
    ],
)
def test_a_model_declines_above_the_threshold(declined: float, threshold: float | None, answer: str | None, requests: int) -> None:
    engine, settings = Deciding(declined), AnswerSettings(abstains=True, no_answer_threshold=0.5)
    options = AnswerOptions(no_answer_threshold=threshold)
    got = asyncio.run(LLM(engine, answers=settings).answer("Who wrote it?", "It was Mary.", options))
    assert (got.answer, len(engine.prompts)) == (answer, requests)
    assert got.no_answer_probability == pytest.approx(declined)
    likelihood = declined if answer is None else math.exp(-0.2)
    assert got.likelihood == pytest.approx(likelihood)
    assert got.score == pytest.approx(declined if answer is None else likelihood * (1 - declined))
    assert (got.start, got.end) == ((None, None) if answer is None else (7, 11))


def test_a_model_that_abstains_answers_from_memory_without_deciding() -> None:
    engine = Deciding(0.9)
    answer = asyncio.run(LLM(engine, answers=AnswerSettings(abstains=True, no_answer_threshold=0.5)).answer("Who wrote it?", None))
    assert (answer.answer, answer.no_answer_probability, engine.prompts) == ("Mary", None, [question_prompt("Who wrote it?")])


@pytest.mark.parametrize(("declined", "text"), [(0.4, " Mary"), (0.6, f" {DECLINED}")])
def test_a_question_is_declined_in_words(declined: float, text: str) -> None:
    async def ask() -> str:
        model = LLM(Deciding(declined), answers=AnswerSettings(abstains=True, no_answer_threshold=0.5))
        return "".join([token.text async for token in model.ask("Who wrote it?", "It was Mary.", SamplingParams())])

    assert asyncio.run(ask()) == text


def test_stop_strings_end_the_text() -> None:
    async def text() -> str:
        return "".join([token.text async for token in LLM(Scripted("one", " two", " three")).stream("0", SamplingParams(stop=(" th",)))])

    assert asyncio.run(text()) == "one two"
