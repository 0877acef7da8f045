import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from models.base import Prompt, SamplingParams, Token
from models.engines import LogprobReader, ScoredSpan
from models.llm import LLM, answer_text, question_prompt
from models.spans import SpanTrie


class Scripted:
    """An engine that generates a fixed text and records its last prompt and parameters."""

    alive, ready, running, steps, cache_usage = True, True, 0, 0, 0.0
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
    answer = asyncio.run(LLM(engine).answer("Who wrote it?", "It was Mary Shelley.", length=9))
    assert (engine.params.temperature, engine.params.length) == (0, 9)
    assert engine.prompt == question_prompt("Who wrote it?", "It was Mary Shelley.")
    assert (answer.answer, answer.start, answer.end) == ("Mary Shelley", 7, 19)
    assert answer.score == pytest.approx(math.exp(-0.3))


@pytest.mark.parametrize("pieces", [(" Byron",), (" ",), ()], ids=["not in the context", "blank", "nothing"])
def test_an_answer_outside_the_context_has_no_offsets(pieces: tuple[str, ...]) -> None:
    answer = asyncio.run(LLM(Scripted(*pieces)).answer("Who wrote it?", "It was Mary Shelley."))
    assert (answer.start, answer.end) == (None, None)
    assert answer.answer == "".join(pieces).strip()


def test_stop_strings_end_the_text() -> None:
    async def text() -> str:
        return "".join([token.text async for token in LLM(Scripted("one", " two", " three")).stream("0", SamplingParams(stop=(" th",)))])

    assert asyncio.run(text()) == "one two"
