"""The fine-tuned causal language model: its question-answering template, its answers, and the engine that runs it."""

import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from models.base import Prompt, SamplingParams, Token, TokenScore, prompt_token, until_stop
from models.engines import Engine, IdScore, load_engine
from models.engines.tokenization import INCOMPLETE, IncrementalDetokenizer, encode

SETTINGS = "trigen.json"
"""The file of an artifact that holds what the Hugging Face format has no place for."""


PromptOrder = Literal["context-first", "question-twice"]
"""Where the question stands: behind the context, so that the context's computation serves all questions about it, or also before it,
so that a causal model reads the context with the question in mind."""


def question_prompt(question: str, context: str | None = None, order: PromptOrder = "context-first") -> str:
    """The one place that spells how a question is put to the model; its answer is `answer_text(answer)` and the end of
    the text. Without a context the model answers from what it remembers.
    """
    asked = f"Question: {question.strip()}\n"
    if not context or not context.strip():
        return f"{asked}Answer:"
    before = asked if order == "question-twice" else ""
    return f"{before}Context: {context.strip()}\n{asked}Answer:"


def answer_text(answer: str) -> str:
    """What follows `question_prompt`: the answer after one space, so that its tokens are those of running text."""
    return f" {answer}"


def document_start(tokenizer: Any) -> str:
    """The text of the token that stood between documents in the pretraining of a transformers tokenizer's model; empty where the
    tokenizer adds one by itself, or none is known.
    """
    if tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]:
        return ""
    return "<|endoftext|>" if "<|endoftext|>" in tokenizer.get_vocab() else tokenizer.bos_token or ""


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
    ended: bool
    """Whether the model ended it before the limit."""


class LLM:
    """A causal language model behind an engine.

    `document_start` is the text of the token that stood between documents in pretraining. Text that is to be continued
    follows it: without it a short prompt is read as the middle of anything.
    """

    def __init__(self, engine: Engine, document_start: str = "", prompt_order: PromptOrder = "context-first") -> None:
        self.engine, self.document_start, self.prompt_order = engine, document_start, prompt_order

    @classmethod
    def load(cls, directory: Path, engine: str = "auto", *, reproducible: bool = False) -> "LLM":
        """Load an artifact of the store; `engine` and `reproducible` are those of `models.engines.load_engine`."""
        settings = json.loads((directory / SETTINGS).read_text())
        running = load_engine(directory, engine, reproducible=reproducible)
        return cls(running, settings["document_start"], settings.get("prompt_order", "context-first"))

    def count(self, prompt: Prompt) -> int:
        """See `TextModel`. What stands before the beginning of a text is not counted."""
        return len(encode(self.engine.tokenizer, prompt))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a prompt that was given as ids."""
        text: str = self.engine.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """Continue `prompt` as the beginning of a text; of ids, which are taken as they are, the first is the beginning. See
        `TextModel.stream`; `params.scores` is `models.engines.MAX_LOGPROBS` at most.
        """
        if params.scores is not None or not params.length:
            return until_stop(self._scored(prompt, params), params.stop)
        return until_stop(self.engine.stream(self.document_start + prompt if isinstance(prompt, str) else prompt, params), params.stop)

    async def _scored(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """A scorer reads the prompt, and then what the engine generates."""
        tokenizer, start = self.engine.tokenizer, self.document_start if isinstance(prompt, str) else ""
        ids = encode(tokenizer, start + prompt if isinstance(prompt, str) else prompt)
        before = len(encode(tokenizer, start)) if start else 0
        self.engine.limits.check(len(ids), params.length)
        texts = _Texts(self.engine, ids[:before], params.scores or 0)
        scorer = self.engine.scorer()
        try:
            scores = texts.scores(ids[before:], (await scorer.read(ids))[before:]) if params.scores is not None else ()
            for token in prompt_token(params, scores):
                yield token
            if not params.length:
                return
            async with aclosing(self.engine.stream(ids, params)) as tokens:
                async for token in tokens:
                    yield replace(token, scores=texts.scores(token.ids, await scorer.read(token.ids)))
        finally:
            scorer.close()

    def ask(self, question: str, context: str | None, params: SamplingParams) -> AsyncGenerator[Token]:
        """Generate the answer to a question: see `TextModel.stream`."""
        return until_stop(self.engine.stream(question_prompt(question, context, self.prompt_order), params), params.stop)

    async def answer(self, question: str, context: str | None, length: int = 64) -> Answer:
        """Answer from `context`, or without one from memory, greedily, in at most `length` tokens. Raises `PromptTooLong`."""
        tokens = [
            token async for token in self.ask(question, context, SamplingParams(length, temperature=0, interval=math.inf, logprobs=True))
        ]
        text = "".join(token.text for token in tokens).strip()
        start = context.find(text) if context and text else -1
        return Answer(
            answer=text,
            score=math.exp(min(0.0, sum(token.logprob or 0.0 for token in tokens))),
            start=start if start >= 0 else None,
            end=start + len(text) if start >= 0 else None,
            ended=bool(tokens) and tokens[-1].finish_reason == "stop",
        )

    def close(self) -> None:
        """Stop the engine; requests under way fail."""
        self.engine.close()


class _Texts:
    """Spells the tokens of one text, as they come, for its scores."""

    def __init__(self, engine: Engine, before: Sequence[int], top: int) -> None:
        self._tokenizer, self._top = engine.tokenizer, top
        self._text = IncrementalDetokenizer(engine.tokenizer, list(before), engine.limits.eos)

    def scores(self, ids: Sequence[int], scores: Sequence[IdScore]) -> tuple[TokenScore, ...]:
        """What the scores of `ids` say, which come next."""
        return tuple(
            TokenScore(
                self._spell(id),
                len(self._text.token([id], None).text),
                logprob,
                tuple((self._spell(other), value) for other, value in best[: self._top]),
            )
            for id, (logprob, best) in zip(ids, scores, strict=True)
        )

    def _spell(self, id: int) -> str:
        """The text of a token; where it has none, or is part of a character, what the vocabulary calls it, so that different tokens stay
        different.
        """
        text: str = self._tokenizer.decode([id], skip_special_tokens=False)
        name: str = self._tokenizer.id_to_token(id) or ""
        if not text or INCOMPLETE in text:
            return name
        return f" {text}" if name.startswith("▁") and not text.startswith(" ") else text
