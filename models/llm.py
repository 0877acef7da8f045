"""The fine-tuned causal language model: its question-answering template, its answers, and the engine that runs it."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from models.base import NOTHING_GENERATED, Logprob, Prompt, PromptLogprobs, SamplingParams, Token, until_stop
from models.engines import Engine, IdLogprob, LogprobReader, Supervision, load_engine
from models.engines.tokenization import INCOMPLETE, IncrementalDetokenizer, encode

SETTINGS_FILE = "trigen.json"
"""The file in an artifact for the settings that have no place in the Hugging Face format."""

PromptOrder = Literal["context-first", "question-twice"]
"""Where the question stands: after the context only, so that all questions about a context share its computation; or before it as well,
so that a causal model reads the context with the question in mind."""


def question_prompt(question: str, context: str | None = None, order: PromptOrder = "context-first") -> str:
    """Return the prompt for a question. This is the only place that spells out the template.

    The model is trained to continue it with `answer_text(answer)` and the end of the text. Without a context it answers from memory.
    """
    question_line = f"Question: {question.strip()}\n"
    if not context or not context.strip():
        return f"{question_line}Answer:"
    before = question_line if order == "question-twice" else ""
    return f"{before}Context: {context.strip()}\n{question_line}Answer:"


def answer_text(answer: str) -> str:
    """Return the text that follows `question_prompt`: the answer after one space, so that it has the same tokens as in running text."""
    return f" {answer}"


def document_start(tokenizer: Any) -> str:
    """Return the text of the token that separated documents in pretraining, given a transformers tokenizer.

    Returns an empty string if the tokenizer adds such a token by itself or has none.
    """
    if tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]:
        return ""
    return "<|endoftext|>" if "<|endoftext|>" in tokenizer.get_vocab() else tokenizer.bos_token or ""


@dataclass(frozen=True)
class Answer:
    """An answer with the fields of transformers' question-answering pipeline."""

    answer: str
    score: float
    """The probability, from 0 to 1, that the model assigns to exactly this answer and its end. For an answer that was cut off at the
    length limit, the probability of the tokens generated so far."""
    start: int | None
    """Offset of the answer's first character in the context; None if the answer is not a span of the context."""
    end: int | None
    """Offset after the answer's last character; None if the answer is not a span of the context."""
    tokens: int
    """Number of generated tokens, including that of the end."""
    ended: bool
    """Whether the model ended the answer before the length limit."""


class LLM:
    """A causal language model and the engine that runs it.

    `document_start` is the text of the token that separated documents in pretraining. The token is put in front of text to be continued,
    but not of questions; without it, the model would read a short prompt as the middle of some document.
    """

    def __init__(self, engine: Engine, document_start: str = "", prompt_order: PromptOrder = "context-first") -> None:
        self.engine, self.prompt_order = engine, prompt_order
        self.document_start: tuple[int, ...] = (_token_id(engine.tokenizer, document_start),) if document_start else ()
        """The id of the token, or nothing."""
        self._spellings: dict[int, str] = {}
        """Tokens of the vocabulary that have been spelled so far: see `spell`."""

    @classmethod
    def load(cls, directory: Path, engine: str = "auto", *, reproducible: bool = False, supervision: Supervision = Supervision()) -> "LLM":
        """Load an artifact. See `models.engines.load_engine` for the other arguments."""
        settings = json.loads((directory / SETTINGS_FILE).read_text())
        loaded = load_engine(directory, engine, reproducible=reproducible, supervision=supervision)
        return cls(loaded, settings["document_start"], settings.get("prompt_order", "context-first"))

    def count(self, prompt: Prompt) -> int:
        """See `TextModel`. The document start is not counted."""
        return len(encode(self.engine.tokenizer, prompt))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a prompt given as ids."""
        text: str = self.engine.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """Continue `prompt` as the beginning of a document; ids are used as they are, without a document start.

        See `TextModel.stream`. `params.logprobs` may be up to `models.engines.MAX_LOGPROBS`.
        """
        if not params.length:
            return self._generate_nothing(prompt)
        if params.logprobs is not None:
            return self._stream_with_logprobs(prompt, params)
        return until_stop(self.engine.stream(prompt, params, self._start(prompt)), params.stop)

    async def stream_with_prompt_logprobs(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[PromptLogprobs | Token]:
        """See `TextModel.stream_with_prompt_logprobs`."""
        text_logprobs = await asyncio.to_thread(_TextLogprobs, self, prompt, params)
        try:
            yield PromptLogprobs(await text_logprobs.read_prompt())
            async with aclosing(until_stop(self._generate_with_logprobs(text_logprobs, params), params.stop)) as tokens:
                async for token in tokens:
                    yield token
        finally:
            text_logprobs.close()

    async def _stream_with_logprobs(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """Yield the tokens of `stream_with_prompt_logprobs`."""
        async with aclosing(self.stream_with_prompt_logprobs(prompt, params)) as items:
            async for item in items:
                if isinstance(item, Token):
                    yield item

    async def _generate_with_logprobs(self, text_logprobs: "_TextLogprobs", params: SamplingParams) -> AsyncGenerator[Token]:
        """Yield the engine's tokens with their log-probabilities, which a second pass over the text computes."""
        if not params.length:  # which the engine does not accept
            yield NOTHING_GENERATED
            return
        async with aclosing(self.engine.stream(text_logprobs.prompt_ids, params)) as tokens:
            async for token in tokens:
                yield replace(token, logprobs=await text_logprobs.read(token.ids))

    def _start(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the document start of a text; ids are used as they are."""
        return self.document_start if isinstance(prompt, str) else ()

    async def _generate_nothing(self, prompt: Prompt) -> AsyncGenerator[Token]:
        """Check the prompt as `stream` does, and yield the token for a length of 0."""
        self.engine.limits.check(len(self._start(prompt)) + await asyncio.to_thread(self.count, prompt), 0)
        yield NOTHING_GENERATED

    def spell(self, id: int) -> str:
        """Return the text of a token. If it is empty or part of a character, return the token's name in the vocabulary instead, so that
        different tokens are spelled differently.
        """
        if id not in self._spellings:
            text: str = self.engine.tokenizer.decode([id], skip_special_tokens=False)
            name: str = self.engine.tokenizer.id_to_token(id) or ""
            if not text or INCOMPLETE in text:
                text = name
            elif name.startswith("▁") and not text.startswith(" "):  # a SentencePiece decoder drops the leading space of a text
                text = f" {text}"
            self._spellings[id] = text
        return self._spellings[id]

    def ask(self, question: str, context: str | None, params: SamplingParams) -> AsyncGenerator[Token]:
        """Generate the answer to a question: see `TextModel.stream`."""
        return until_stop(self.engine.stream(question_prompt(question, context, self.prompt_order), params), params.stop)

    async def answer(self, question: str, context: str | None, length: int = 64) -> Answer:
        """Answer greedily, in up to `length` tokens, from `context` or, if it is None, from memory. Raises `PromptTooLong`."""
        params = SamplingParams(length, temperature=0, final_only=True, cumulative_logprob=True)
        tokens = [token async for token in self.ask(question, context, params)]
        text = "".join(token.text for token in tokens).strip()
        start = context.find(text) if context and text else -1
        return Answer(
            answer=text,
            score=math.exp(min(0.0, sum(token.cumulative_logprob or 0.0 for token in tokens))),
            start=start if start >= 0 else None,
            end=start + len(text) if start >= 0 else None,
            tokens=sum(token.count for token in tokens),
            ended=bool(tokens) and tokens[-1].finish_reason == "stop",
        )

    def close(self) -> None:
        """Stop the engine. Requests in progress fail."""
        self.engine.close()


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    id: int | None = tokenizer.token_to_id(token)
    if id is None:
        raise ValueError(f"the tokenizer has no token {token!r}, the document start of this artifact")
    return id


class _TextLogprobs:
    """Computes the log-probabilities of a text's tokens, first of the prompt and then of the generated tokens as they arrive."""

    def __init__(self, llm: LLM, prompt: Prompt, params: SamplingParams) -> None:
        """Tokenize the prompt. Raises `UnknownIds`, and `PromptTooLong` if it does not fit."""
        self._llm, self._top_count = llm, params.logprobs or 0
        self._start = llm._start(prompt)
        self.prompt_ids = [*self._start, *encode(llm.engine.tokenizer, prompt)]
        llm.engine.limits.check(len(self.prompt_ids), params.length)
        self._detokenizer = IncrementalDetokenizer(llm.engine.tokenizer, list(self._start), llm.engine.limits.eos)
        self._reader: LogprobReader = llm.engine.logprob_reader()

    async def read_prompt(self) -> tuple[Logprob, ...]:
        """Return the log-probabilities of the prompt's tokens, without the document start."""
        logprobs = await self._reader.read(self.prompt_ids)
        start = len(self._start)
        return await asyncio.to_thread(self._spell, self.prompt_ids[start:], logprobs[start:])  # a long prompt takes milliseconds

    async def read(self, ids: Sequence[int]) -> tuple[Logprob, ...]:
        """Return the log-probabilities of the next tokens of the text."""
        return self._spell(ids, await self._reader.read(ids))

    def close(self) -> None:
        """Release the reader's memory."""
        self._reader.close()

    def _spell(self, ids: Sequence[int], logprobs: Sequence[IdLogprob]) -> tuple[Logprob, ...]:
        return tuple(
            Logprob(
                text=self._llm.spell(id),
                characters=len(self._detokenizer.token([id]).text),
                logprob=logprob,
                top=tuple((self._llm.spell(other), value) for other, value in top[: self._top_count]),
            )
            for id, (logprob, top) in zip(ids, logprobs, strict=True)
        )
