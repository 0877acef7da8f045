"""What all three language models have in common: one protocol, one set of sampling parameters, one kind of token."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from typing_extensions import TypeAliasType

FinishReason = TypeAliasType("FinishReason", Literal["length", "stop"])
Prompt = str | Sequence[int]
"""A text, or ids of the model's own tokens, which are taken as they are."""


@dataclass(frozen=True)
class SamplingParams:
    """How to continue a prompt. The meaning of each field is the same for every model."""

    length: int = 64
    """New tokens at most: words and punctuation marks for the bigram and the LSTM, BPE tokens for the LLM. 0 generates nothing."""
    temperature: float = 0.8
    """Divides the logits before sampling; 0, or less than 0.001, takes the most probable token each time (greedy)."""
    top_k: int = 0
    """Sample among the k most probable tokens; 0 does not restrict."""
    top_p: float = 0.95
    """Sample among the most probable tokens that together reach this probability (nucleus sampling,
    https://arxiv.org/abs/1904.09751); 1 does not restrict."""
    seed: int = 0
    """Seeds this request's own random generator: same seed, parameters and model, same text (the LLM: see `docs/serving.md`)."""
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these strings, which is not part of the text."""
    interval: float = 0.0
    """Seconds: what a model writes within about so long it may hand out as one `Token`, which wakes the reader less often. The first comes
    at once, and the last with all that was held back: with infinity the whole text is one. A reader who looks for `stop` gets each.
    """
    logprobs: bool = False
    """Whether `Token.logprob` is wanted: the LLM's takes a pass over the vocabulary of its own, a tenth of its speed."""
    scores: int | None = None
    """How many alternatives `Token.scores` names for each token; None: no scores are wanted. The LLM's cost a second pass over the text."""
    prompt_scores: bool = False
    """Whether the first `Token` holds the scores of the prompt's tokens, and stands for no new one. Goes with `scores`."""

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken; a tiny temperature would overflow to the same."""
        return self.temperature < 1e-3


@dataclass(frozen=True)
class TokenScore:
    """One token, of the prompt or generated, and what the model thinks of it in its place."""

    text: str
    """The token; one that is not a whole character, as the vocabulary spells it."""
    characters: int
    """How long the text is that it adds; 0 while a character's bytes are incomplete."""
    logprob: float | None
    """Natural logarithm of its probability under the model; None for the first of a text, before which nothing stands."""
    top: tuple[tuple[str, float], ...]
    """The most probable tokens in this place and their log-probabilities, the best first."""


@dataclass(frozen=True)
class Token:
    """One step of generation, or several that are handed out together."""

    text: str
    """What it adds to the text; may be empty while a character's bytes are incomplete."""
    logprob: float | None
    """Natural logarithm of its probability under the model, before temperature, top-k and top-p. May be None where
    `SamplingParams.logprobs` does not ask for it."""
    finish_reason: FinishReason | None = None
    """Set on the last token alone: `length` was reached, or the model or a stop string ended the text."""
    count: int = 1
    """Tokens of the model that it stands for."""
    ids: tuple[int, ...] = ()
    """Of these tokens, where the model is the LLM."""
    scores: tuple[TokenScore, ...] = ()
    """Of these tokens, where `SamplingParams.scores` asks for them."""


class TextModel(Protocol):
    """A language model that continues text."""

    def count(self, prompt: Prompt) -> int:
        """How many tokens of the model `prompt` has."""
        ...

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """Yield the continuation of `prompt` (not the prompt itself), token by token.

        Closing the iterator stops the work at the next token. Raises `PromptTooLong` before the first token where
        the prompt and `params.length` do not fit the model's context, and `UnknownIds` where ids are none of the model's.
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
            f"of {limit} tokens: shorten it or ask for less"
        )


class UnknownIds(ValueError):
    """The prompt has ids that are no tokens of the model."""


def prompt_token(params: SamplingParams, scores: Sequence[TokenScore] = ()) -> list[Token]:
    """What a stream begins with: the scores of the prompt, if they are wanted; it ends with it where nothing is to be generated."""
    if params.length and not params.prompt_scores:
        return []
    return [Token("", None, None if params.length else "length", count=0, scores=tuple(scores))]


async def until_stop(tokens: AsyncGenerator[Token], stop: tuple[str, ...]) -> AsyncGenerator[Token]:
    """Pass `tokens` on until their text contains one of the `stop` strings, and cut it off there.

    Text that may be the beginning of a stop string is held back until it is certain that it is none, so no part of
    a stop string is ever sent. However this ends, `tokens` is closed.
    """
    held = ""
    async with aclosing(tokens):
        if not stop:
            async for token in tokens:
                yield token
            return
        async for token in tokens:
            held += token.text
            ends = [at for word in stop if (at := held.find(word)) >= 0]
            if ends:
                yield replace(token, text=held[: min(ends)], finish_reason="stop")
                return
            keep = 0 if token.finish_reason else max((_overlap(held, word) for word in stop), default=0)
            ready, held = held[: len(held) - keep], held[len(held) - keep :]
            yield replace(token, text=ready)


def _overlap(text: str, word: str) -> int:
    """The length of the longest end of `text` that `word` begins with (shorter than `word`)."""
    return next((n for n in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:n])), 0)
