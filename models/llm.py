"""The fine-tuned causal language model: its question-answering template, its answers, and the engine that runs it."""

import json
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from models.base import SamplingParams, Token, until_stop
from models.engines import Engine, load_engine

SETTINGS = "trigen.json"
"""The file of an artifact that holds what the Hugging Face format has no place for."""


def question_prompt(question: str, context: str | None = None) -> str:
    """The one place that spells how a question is put to the model; its answer is `answer_text(answer)` and the end of
    the text. Without a context the model answers from what it remembers.
    """
    passage = f"Context: {context.strip()}\n" if context and context.strip() else ""
    return f"{passage}Question: {question.strip()}\nAnswer:"


def answer_text(answer: str) -> str:
    """What follows `question_prompt`: the answer after one space, so that its tokens are those of running text."""
    return f" {answer}"


@dataclass(frozen=True)
class Answer:
    """An answer, as in transformers' question-answering pipeline."""

    answer: str
    score: float
    """Probability that the model gives to exactly this answer and its end, between 0 and 1; of an answer that was cut off at
    the limit, to its beginning."""
    start: int | None
    end: int | None
    """Character offsets of the answer in the context; None where it is not a span of the context."""


class LLM:
    """A causal language model behind an engine.

    `document_start` is the text of the token that stood between documents in pretraining. Text that is to be continued
    follows it: without it a short prompt is read as the middle of anything.
    """

    def __init__(self, engine: Engine, document_start: str = "") -> None:
        self.engine, self.document_start = engine, document_start

    @classmethod
    def load(cls, directory: Path, engine: str = "auto") -> "LLM":
        """Load an artifact of the store; `engine` is one of `models.engines.load_engine`."""
        settings = json.loads((directory / SETTINGS).read_text())
        return cls(load_engine(directory, engine), settings["document_start"])

    def stream(self, prompt: str, params: SamplingParams) -> AsyncGenerator[Token]:
        """Continue `prompt` as the beginning of a text: see `TextModel.stream`."""
        return until_stop(self.engine.stream(self.document_start + prompt, params), params.stop)

    def ask(self, question: str, context: str | None, params: SamplingParams) -> AsyncGenerator[Token]:
        """Generate the answer to a question: see `TextModel.stream`."""
        return until_stop(self.engine.stream(question_prompt(question, context), params), params.stop)

    async def answer(self, question: str, context: str, length: int = 64) -> Answer:
        """Answer from `context`, greedily, in at most `length` tokens. Raises `PromptTooLong`."""
        tokens = [token async for token in self.engine.stream(question_prompt(question, context), SamplingParams(length, temperature=0))]
        text = "".join(token.text for token in tokens).strip()
        start = context.find(text) if text else -1
        return Answer(
            answer=text,
            score=math.exp(min(0.0, sum(token.logprob for token in tokens))),
            start=start if start >= 0 else None,
            end=start + len(text) if start >= 0 else None,
        )

    def close(self) -> None:
        """Stop the engine; requests under way fail."""
        self.engine.close()
