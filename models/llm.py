"""The fine-tuned causal language model: texts, answers to questions, and the engine that runs it."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

from tokenizers import Tokenizer

from models.answering.answers import ALWAYS_ANSWERS, DECLINED, DEFAULT_OPTIONS, Answer, AnswerOptions, AnswerSettings, Candidate
from models.answering.places import find_span, meant_place
from models.answering.prompts import ANSWER_FOLLOWS, PromptOrder, question_prompt, undecided_prompt
from models.base import NOTHING_GENERATED, Logprob, Prompt, PromptLogprobs, SamplingParams, Token, until_stop
from models.engines import Engine, IdLogprob, LogprobReader, Supervision, load_engine
from models.engines.tokenization import INCOMPLETE, IncrementalDetokenizer, encode
from models.spans import Spans
from models.spans.tokenization import is_made_of_words

MAX_SPAN_TOKENS = 32
"""The longest span of a context that may be an answer, in tokens."""
SETTINGS_FILE = "trigen.json"
"""The file in an artifact for the settings that have no place in the Hugging Face format."""


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

    def question_prompt(self, question: str, context: str | None) -> str:
        """Return what the model reads of a question at first."""
        template = undecided_prompt if self._abstains_on(context) else question_prompt
        return template(question, context, self.prompt_order)

    async def ask(self, question: str, context: str | None, params: SamplingParams) -> AsyncGenerator[Token]:
        """Generate the answer to a question, or `DECLINED` if the context does not tell: see `TextModel.stream`."""
        if self._abstains_on(context):
            declined = (await self._decide(question, context)).declined
            if self.answers.no_answer_probability(declined) > self.answers.no_answer_threshold:
                yield Token(f" {DECLINED}", finish_reason="stop")
                return
        prompt = question_prompt(question, context, self.prompt_order)
        params = replace(params, prompt_lookup=bool(context) and params.greedy)
        async with aclosing(until_stop(self.engine.stream(prompt, params), params.stop)) as tokens:
            async for token in tokens:
                yield token

    async def answer(self, question: str, context: str | None, options: AnswerOptions = DEFAULT_OPTIONS) -> Answer:
        """Answer greedily from `context` or, if it is None, from memory. Raises `PromptTooLong`.

        A model that was trained to decline does so above the threshold of `options`.
        """
        prompt, declined = question_prompt(question, context, self.prompt_order), None
        if not self._abstains_on(context):
            tokens = await self._generate(prompt, options.length, context)
        else:
            decision = await self._decide(question, context, options.length)
            declined, probability = decision.declined, self.answers.no_answer_probability(decision.declined)
            threshold = self.answers.no_answer_threshold if options.no_answer_threshold is None else options.no_answer_threshold
            if probability > threshold:
                return Answer(None, probability, declined, probability, None, None, decision.tokens, ended=True)
            tokens = decision.answer or await self._generate(prompt, options.length, context)
        answer = self._answer(tokens, question, context, declined)
        if context and (options.count > 1 or (options.extractive and not _is_span(answer, context))):
            return self._choose(answer, await self._search(question, context, options, declined), options, context)
        return answer

    async def _search(self, question: str, context: str, options: AnswerOptions, declined: float | None) -> list[Candidate]:
        """Return the best spans of `context` as answers to `question`."""
        tokenizer, max_tokens = self.engine.tokenizer, min(options.length, MAX_SPAN_TOKENS)
        ids = await asyncio.to_thread(encode, tokenizer, question_prompt(question, context, self.prompt_order))
        spans = await asyncio.to_thread(Spans.of, tokenizer, context, max_tokens)
        candidates = []
        for found in await self.engine.best_spans(ids, spans.trie, options.count):
            start, end = meant_place(spans.occurrences(found.ids), context, question)
            likelihood = math.exp(min(0.0, found.logprob))
            candidates.append(Candidate(context[start:end], self.answers.score(likelihood, declined), likelihood, start, end))
        return candidates

    def _choose(self, written: Answer, found: list[Candidate], options: AnswerOptions, context: str) -> Answer:
        """Return the answer that the model has written or, if it must be a span and is none, the best span that was found."""
        first = Candidate(written.answer or "", written.score, written.likelihood, written.start, written.end)
        if options.extractive and not _is_span(written, context):
            if not found:  # the context is a single word that is too long for an answer
                return replace(written, answer=None, likelihood=0.0, score=written.no_answer_probability or 0.0)
            first = found[0]
        others = [candidate for candidate in found if candidate.answer != first.answer]
        return replace(
            written,
            answer=first.answer,
            score=first.score,
            likelihood=first.likelihood,
            start=first.start,
            end=first.end,
            candidates=(first, *others)[: options.count] if options.count > 1 else (),
        )

    def _abstains_on(self, context: str | None) -> TypeGuard[str]:
        return self.answers.abstains and bool(context and context.strip())

    async def _decide(self, question: str, context: str, length: int = 0) -> "_Decision":
        """Let the model decide whether the context answers the question, and generate up to `length` tokens of the answer."""
        prompt = undecided_prompt(question, context, self.prompt_order)
        # With this interval, the first token comes by itself.
        params = SamplingParams(length + 1, temperature=0, cumulative_logprob=True, flush_interval=math.inf, prompt_lookup=True)
        first, *answer = [token async for token in self.engine.stream(prompt, params)]
        probability = math.exp(min(0.0, first.cumulative_logprob or 0.0))
        answers = first.text == ANSWER_FOLLOWS
        return _Decision(1 - probability if answers else probability, answer if answers else [], first.count)

    async def _generate(self, prompt: str, length: int, context: str | None) -> list[Token]:
        params = SamplingParams(length, temperature=0, final_only=True, cumulative_logprob=True, prompt_lookup=bool(context))
        return [token async for token in self.engine.stream(prompt, params)]

    def _answer(self, tokens: list[Token], question: str, context: str | None, declined: float | None) -> Answer:
        """Return the answer to `question` with these tokens. `declined` is the probability of no answer, if the model has decided."""
        text = "".join(token.text for token in tokens).strip()
        likelihood = math.exp(min(0.0, sum(token.cumulative_logprob or 0.0 for token in tokens)))
        start, end = (find_span(text, context, question) if context else None) or (None, None)
        return Answer(
            answer=text,
            score=self.answers.score(likelihood, declined),
            likelihood=likelihood,
            no_answer_probability=None if declined is None else self.answers.no_answer_probability(declined),
            start=start,
            end=end,
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


def _is_span(answer: Answer, context: str) -> bool:
    """Return whether an answer is one of the spans of `context` among which a search chooses."""
    return answer.start is not None and answer.end is not None and is_made_of_words(context, answer.start, answer.end)
