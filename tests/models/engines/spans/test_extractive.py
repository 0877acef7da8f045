"""Extractive answers are spans of the context, whatever the context is."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.answering.answers import AnswerOptions
from models.engines.openvino import EXACT, OpenVINOEngine
from models.llm import LLM, MAX_SPAN_TOKENS
from models.spans import Spans
from models.spans.tokenization import word_offsets

WORDS = st.sampled_from(
    ["light", "sea", "keeper", "1889", "£40,000", "naïve", "Łódź", "don't", "U.S.", "灯台", "ß-carotene", "🌊", "(", ")", "-", "%", "a"]
)
SPACES = st.sampled_from([" ", " ", " ", "  ", "\n", "\t", ", "])
CONTEXTS = st.lists(st.tuples(WORDS, SPACES), min_size=1, max_size=60).map(lambda pairs: "".join(word + space for word, space in pairs))
ANY_TEXT = st.text(min_size=1, max_size=80).filter(lambda text: text.strip())
REQUESTS = [200, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def llm(artifact: Path) -> Iterator[LLM]:
    with closing(LLM(OpenVINOEngine(artifact, EXACT))) as model:
        yield model


@pytest.mark.parametrize("requests", REQUESTS)
def test_every_extractive_answer_is_a_span_of_its_context(llm: LLM, requests: int) -> None:
    # One event loop for all examples: the engine replies to the loop of its request.
    with asyncio.Runner() as runner:

        @settings(max_examples=requests, deadline=None, suppress_health_check=list(HealthCheck))
        @given(context=CONTEXTS | ANY_TEXT, question=ANY_TEXT, length=st.integers(1, 8), count=st.integers(1, 4))
        def check(context: str, question: str, length: int, count: int) -> None:
            options = AnswerOptions(length=length, extractive=True, count=count)
            answer = runner.run(llm.answer(question, context, options))
            spans = Spans.of(llm.engine.tokenizer, context, min(length, MAX_SPAN_TOKENS))
            if answer.answer is None:
                assert spans.trie.empty  # every word is longer than an answer may be
                return
            assert answer.start is not None
            assert context[answer.start : answer.end] == answer.answer != ""
            assert answer.end in {end for start, end in word_offsets(context)}
            assert answer.start in {start for start, end in word_offsets(context)}
            for candidate in answer.candidates:
                assert candidate.start is not None
                assert context[candidate.start : candidate.end] == candidate.answer
            assert len({candidate.answer for candidate in answer.candidates}) == len(answer.candidates) <= count

        check()
