"""The interface that all three language models share: a protocol, sampling parameters and tokens."""

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from typing_extensions import TypeAliasType

FinishReason = TypeAliasType("FinishReason", Literal["length", "stop"])
Prompt = str | Sequence[int]
"""A text, or token ids of the model, which are used as they are."""


@dataclass(frozen=True)
class SamplingParams:
    """How to continue a prompt. Each field means the same for every model."""

    length: int = 64
    """Maximum number of new tokens: words and punctuation marks for the bigram and the LSTM, BPE tokens for the LLM. 0 generates none."""
    temperature: float = 0.8
    """Divides the logits before sampling. Below 0.001 the most probable token is taken each time (greedy decoding)."""
    top_k: int = 0
    """Sample from the k most probable tokens; 0 means no limit."""
    top_p: float = 0.95
    """Sample from the most probable tokens whose probabilities add up to this value (nucleus sampling,
    https://arxiv.org/abs/1904.09751); 1 means no limit."""
    seed: int = 0
    """Seeds this request's random generator. The same seed, parameters and model give the same text (for the LLM, see
    `docs/operating.md`)."""
    stop: tuple[str, ...] = ()
    """Generation stops before the first of these strings; the string is not part of the text."""
    flush_interval: float = 0.0
    """Seconds between flushes of a stream. A model may collect tokens for this long and return them as one `Token`, which wakes the reader
    less often. The first token is never delayed. Ignored where `stop` is set: each token must be checked."""
    final_only: bool = False
    """Return the whole text as one `Token` at the end. Models may ignore this, and the LLM does where `stop` is set."""
    cumulative_logprob: bool = False
    """Compute `Token.cumulative_logprob`. For the LLM this takes another pass over the vocabulary, which costs a tenth of its speed."""
    prompt_lookup: bool = False
    """The text probably repeats parts of the prompt, as an answer does its passage, so draft from there
    (https://github.com/apoorvumang/prompt-lookup-decoding). Changes only the speed, and how numbers are rounded. Models may ignore this."""
    logprobs: int | None = None
    """Compute `Token.logprobs` with this many alternatives for each token; None computes none. For the LLM this takes a second pass
    over the text."""

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken. Tiny temperatures amount to this, but dividing by them could overflow."""
        return self.temperature < 1e-3


@dataclass(frozen=True)
class Logprob:
    """The log-probability of one token of the prompt or of the generated text, and its most probable alternatives."""

    text: str
    """The token. A token that is only part of a character is spelled as in the vocabulary."""
    characters: int
    """Number of characters that the token adds to the text; 0 while a character is incomplete."""
    logprob: float | None
    """Natural logarithm of the token's probability under the model; None for the first token of a text, which has no predecessor."""
    top: tuple[tuple[str, float], ...]
    """The most probable tokens at this position with their log-probabilities, in descending order."""


@dataclass(frozen=True)
class PromptLogprobs:
    """The log-probabilities of a prompt's tokens, or of the next of them."""

    logprobs: tuple[Logprob, ...]


@dataclass(frozen=True)
class Token:
    """One generated token, or several that were flushed together."""

    text: str
    """The text to append. Empty while a character is incomplete."""
    cumulative_logprob: float | None = None
    """Sum of the natural log-probabilities of the tokens under the model, before temperature, top-k and top-p; None unless
    `SamplingParams.cumulative_logprob` is set. The bigram and the LSTM leave out the boundary and the unknown word, which they never
    generate."""
    finish_reason: FinishReason | None = None
    """Set only on the last token. `length`: the requested length was reached; `stop`: the model or a stop string ended the text."""
    count: int = 1
    """Number of model tokens. 0 only where the requested length is 0."""
    ids: tuple[int, ...] = ()
    """The token ids; empty for the bigram and the LSTM."""
    logprobs: tuple[Logprob, ...] = ()
    """One entry for each token where `SamplingParams.logprobs` is set, else empty."""


NOTHING_GENERATED = Token("", finish_reason="length", count=0)
"""The only token of a stream whose requested length is 0."""


class TextModel(Protocol):
    """A language model that continues text."""

    def count(self, prompt: Prompt) -> int:
        """Return the number of tokens in `prompt`."""
        ...

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """Yield the continuation of `prompt`, without the prompt itself, token by token.

        Closing the iterator stops generation at the next token. Before the first token it raises `PromptTooLong` if the prompt
        and `params.length` exceed the model's context, and `UnknownIds` if the prompt contains ids that the model does not have.
        """
        ...

    def stream_with_prompt_logprobs(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[PromptLogprobs | Token]:
        """Yield the prompt's log-probabilities, with `params.logprobs` alternatives each, and then the tokens of `stream`.

        The log-probabilities may come in several pieces, of which the first may be empty.
        """
        ...


class PromptTooLong(ValueError):
    """The prompt and the requested length exceed the model's context."""

    def __init__(self, prompt_tokens: int, length: int, limit: int) -> None:
        super().__init__(prompt_tokens, length, limit)

    def __str__(self) -> str:
        prompt_tokens, length, limit = self.args
        return (
            f"the prompt has {prompt_tokens} tokens and with {length} new ones exceeds the model's context "
            f"of {limit} tokens: shorten the prompt or request fewer tokens"
        )


class UnknownIds(ValueError):
    """The prompt contains ids that are not tokens of the model."""


async def until_stop(tokens: AsyncGenerator[Token], stop: tuple[str, ...]) -> AsyncGenerator[Token]:
    """Pass `tokens` on until their text contains one of the `stop` strings, and cut the text off before it.

    Text that may be the beginning of a stop string is held back until the next tokens decide, so no part of a stop string is ever
    sent. The log-probabilities of a token are held back until its whole text has been sent; those of tokens that begin after the end
    of the text are dropped. `tokens` is closed in any case.
    """
    held, logprobs = "", _HeldLogprobs()
    async with aclosing(tokens):
        if not stop:
            async for token in tokens:
                yield token
            return
        async for token in tokens:
            held += token.text
            logprobs.add(token.logprobs)
            if (end := first_stop(held, stop)) is not None:
                yield replace(token, text=held[:end], finish_reason="stop", logprobs=logprobs.finish(end))
                return
            keep = 0 if token.finish_reason else max(_overlap(held, string) for string in stop)
            ready, held = held[: len(held) - keep], held[len(held) - keep :]
            sent = logprobs.finish(len(ready)) if token.finish_reason else logprobs.release(len(ready))
            yield replace(token, text=ready, logprobs=sent)


class _HeldLogprobs:
    """The log-probabilities of tokens whose text has not been sent yet, or not all of it."""

    def __init__(self) -> None:
        self._held: deque[tuple[int, Logprob]] = deque()
        """Each with the offset of its token in the text."""
        self._sent = self._end = 0
        """Number of characters that have been sent, and the offset after the last token."""

    def add(self, logprobs: tuple[Logprob, ...]) -> None:
        """Hold the entries of the next tokens."""
        for logprob in logprobs:
            self._held.append((self._end, logprob))
            self._end += logprob.characters

    def release(self, characters: int) -> tuple[Logprob, ...]:
        """Return the entries of the tokens that are complete once the next `characters` of the text have been sent.

        A token without text at the end of what has been sent is held as well: a stop string may begin there.
        """
        self._sent += characters
        released = []
        while self._held and (start := self._held[0][0]) < self._sent and start + self._held[0][1].characters <= self._sent:
            released.append(self._held.popleft()[1])
        return tuple(released)

    def finish(self, characters: int) -> tuple[Logprob, ...]:
        """Return the entries that are left, given that the text ends after the next `characters`.

        If a stop string has cut the text off, be it here or in the engine, those of tokens that begin after its end are dropped.
        """
        end = self._sent + characters
        return tuple(logprob for start, logprob in self._held if start < end or self._end <= end)


def first_stop(text: str, stop: tuple[str, ...]) -> int | None:
    """Return where the first of the `stop` strings begins in `text`, or None."""
    return min((position for string in stop if (position := text.find(string)) >= 0), default=None)


def join(tokens: Sequence[Token]) -> Token:
    """Return the `tokens` of one text, of which there is at least one, as a single `Token`."""
    logprobs = [token.cumulative_logprob for token in tokens if token.cumulative_logprob is not None]
    return Token(
        "".join(token.text for token in tokens),
        cumulative_logprob=sum(logprobs) if logprobs else None,
        finish_reason=tokens[-1].finish_reason,
        count=sum(token.count for token in tokens),
        ids=tuple(id for token in tokens for id in token.ids),
        logprobs=tuple(entry for token in tokens for entry in token.logprobs),
    )


def _overlap(text: str, string: str) -> int:
    """Return the length of the longest suffix of `text` that is a proper prefix of `string`."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
