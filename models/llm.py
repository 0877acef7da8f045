"""The fine-tuned causal language model: its question-answering template, its answers, and the engine that runs it."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard

from tokenizers import Tokenizer

from models.answers import ALWAYS_ANSWERS, DECLINED, Answer, AnswerSettings
from models.base import NOTHING_GENERATED, Logprob, Prompt, PromptLogprobs, SamplingParams, Token, until_stop
from models.engines import Engine, IdLogprob, LogprobReader, Supervision, load_engine
from models.engines.tokenization import INCOMPLETE, IncrementalDetokenizer, encode

SETTINGS_FILE = "trigen.json"
"""The file in an artifact for the settings that have no place in the Hugging Face format."""

PromptOrder = Literal["context-first", "question-twice"]
"""Where the question stands: after the context only, so that all questions about a context share its computation; or before it as well,
so that a causal model reads the context with the question in mind."""


ANSWER_FOLLOWS = ":"
"""What follows `undecided_prompt` if an answer comes. If none does, the text ends there."""


def question_prompt(question: str, context: str | None = None, order: PromptOrder = "context-first") -> str:
    """Return the prompt for a question that the model is to answer in any case.

    The model is trained to continue it with `answer_text(answer)` and the end of the text. Without a context it answers from memory.
    """
    return undecided_prompt(question, context, order) + ANSWER_FOLLOWS


def undecided_prompt(question: str, context: str | None = None, order: PromptOrder = "context-first") -> str:
    """Return the prompt for a question that the context may not answer. This is the only place that spells out the template.

    A model that was trained to abstain continues it with `ANSWER_FOLLOWS`, the answer and the end of the text or, if the context does
    not tell, with the end alone. So the probability of its first token is the probability that there is an answer.
    """
    question_line = f"Question: {question.strip()}\n"
    if not context or not context.strip():
        return f"{question_line}Answer"
    before = question_line if order == "question-twice" else ""
    return f"{before}Context: {context.strip()}\n{question_line}Answer"


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


class LLM:
    """A causal language model and the engine that runs it.

    `document_start` is the text of the token that separated documents in pretraining. The token is put in front of text to be continued,
    but not of questions; without it, the model would read a short prompt as the middle of some document.
    """

    def __init__(
        self,
        engine: Engine,
        document_start: str = "",
        prompt_order: PromptOrder = "context-first",
        answers: AnswerSettings = ALWAYS_ANSWERS,
    ) -> None:
        self.engine, self.prompt_order, self.answers = engine, prompt_order, answers
        self.document_start: tuple[int, ...] = (_token_id(engine.tokenizer, document_start),) if document_start else ()
        """The id of the token, or nothing."""
        self._spellings: dict[int, str] = {}
        """Tokens of the vocabulary that have been spelled so far: see `spell`."""

    @classmethod
    def load(cls, directory: Path, engine: str = "auto", *, reproducible: bool = False, supervision: Supervision = Supervision()) -> "LLM":
        """Load an artifact. See `models.engines.load_engine` for the other arguments."""
        settings = json.loads((directory / SETTINGS_FILE).read_text())
        loaded = load_engine(directory, engine, reproducible=reproducible, supervision=supervision)
        return cls(loaded, settings["document_start"], settings.get("prompt_order", "context-first"), AnswerSettings.of(settings))

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

    async def ask(self, question: str, context: str | None, params: SamplingParams) -> AsyncGenerator[Token]:
        """Generate the answer to a question, or `DECLINED` if the context does not tell: see `TextModel.stream`."""
        if self._abstains_on(context):
            declined = (await self._decide(question, context)).declined
            if self.answers.no_answer_probability(declined) > self.answers.no_answer_threshold:
                yield Token(f" {DECLINED}", finish_reason="stop")
                return
        prompt = question_prompt(question, context, self.prompt_order)
        async with aclosing(until_stop(self.engine.stream(prompt, params), params.stop)) as tokens:
            async for token in tokens:
                yield token

    async def answer(self, question: str, context: str | None, length: int = 64, no_answer_threshold: float | None = None) -> Answer:
        """Answer greedily, in up to `length` tokens, from `context` or, if it is None, from memory. Raises `PromptTooLong`.

        Declines if the probability that the context does not tell is above `no_answer_threshold` (by default the model's own; 1 always
        answers) and the model was trained to decline.
        """
        if not self._abstains_on(context):
            return self._answer(await self._generate(question_prompt(question, context, self.prompt_order), length), context, None)
        threshold = self.answers.no_answer_threshold if no_answer_threshold is None else no_answer_threshold
        decision = await self._decide(question, context, length)
        probability = self.answers.no_answer_probability(decision.declined)
        if probability > threshold:
            return Answer(None, probability, decision.declined, probability, None, None, decision.tokens, ended=True)
        tokens = decision.answer or await self._generate(question_prompt(question, context, self.prompt_order), length)
        return self._answer(tokens, context, decision.declined)

    def _abstains_on(self, context: str | None) -> TypeGuard[str]:
        return self.answers.abstains and bool(context and context.strip())

    async def _decide(self, question: str, context: str, length: int = 0) -> "_Decision":
        """Let the model decide whether the context answers the question, and generate up to `length` tokens of the answer."""
        prompt = undecided_prompt(question, context, self.prompt_order)
        params = SamplingParams(length + 1, temperature=0, cumulative_logprob=True, flush_interval=math.inf)  # the first token by itself
        first, *answer = [token async for token in self.engine.stream(prompt, params)]
        probability = math.exp(min(0.0, first.cumulative_logprob or 0.0))
        answers = first.text == ANSWER_FOLLOWS
        return _Decision(1 - probability if answers else probability, answer if answers else [], first.count)

    async def _generate(self, prompt: str, length: int) -> list[Token]:
        params = SamplingParams(length, temperature=0, final_only=True, cumulative_logprob=True)
        return [token async for token in self.engine.stream(prompt, params)]

    def _answer(self, tokens: list[Token], context: str | None, declined: float | None) -> Answer:
        """Return the answer with these tokens. `declined` is the probability of no answer, if the model has decided."""
        text = "".join(token.text for token in tokens).strip()
        likelihood = math.exp(min(0.0, sum(token.cumulative_logprob or 0.0 for token in tokens)))
        start = context.find(text) if context and text else -1
        return Answer(
            answer=text,
            score=self.answers.score(likelihood, declined),
            likelihood=likelihood,
            no_answer_probability=None if declined is None else self.answers.no_answer_probability(declined),
            start=start if start >= 0 else None,
            end=start + len(text) if start >= 0 else None,
            tokens=sum(token.count for token in tokens) + (declined is not None),
            ended=bool(tokens) and tokens[-1].finish_reason == "stop",
        )

    def close(self) -> None:
        """Stop the engine. Requests in progress fail."""
        self.engine.close()


@dataclass(frozen=True)
class _Decision:
    """Whether the context answers a question."""

    declined: float
    """The model's probability of no answer."""
    answer: list[Token]
    """The tokens of the answer, if it is more probable that there is one."""
    tokens: int
    """Number of tokens that the decision took."""


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
