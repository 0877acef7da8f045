"""Tokenizing prompts and detokenizing generated ids, for both engines."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from models.base import FinishReason, Prompt, PromptTooLong, Token, UnknownIds

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""Decoders write this in place of an incomplete character."""


class ModelLimits:
    """The context length and the end-of-text tokens of a Hugging Face model directory."""

    def __init__(self, directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        generation = json.loads((directory / "generation_config.json").read_text())
        self.context_length = context_length(config)
        eos = generation.get("eos_token_id")
        self.eos = frozenset([] if eos is None else [eos] if isinstance(eos, int) else eos)

    def check(self, prompt_tokens: int, length: int) -> None:
        """Raise `PromptTooLong` if the prompt and `length` new tokens exceed the context."""
        if prompt_tokens + length > self.context_length:
            raise PromptTooLong(prompt_tokens, length, self.context_length)


def context_length(config: dict[str, Any]) -> int:
    """Return the number of tokens that a model with this configuration, as `config.json` has it, can read.

    Where some layers attend to a sliding window only, it is the window: within it they attend to everything, and the CPU engine knows no
    other attention.
    """
    positions: int = config.get("max_position_embeddings") or config["n_positions"]
    return min(positions, config.get("sliding_window") or positions)


def encode(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Return the ids of a prompt. Raises `UnknownIds` if the prompt contains an id outside the vocabulary."""
    if isinstance(prompt, str):
        return list(_encode_text(tokenizer, prompt))
    size = tokenizer.get_vocab_size()
    if unknown := [id for id in prompt if not 0 <= id < size]:
        raise UnknownIds(f"{unknown[0]} is not a token id of this model, which has {size:,} tokens")
    return list(prompt)


@lru_cache(maxsize=64)
def _encode_text(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Return the ids of a text. The service counts the tokens of a prompt before the engine reads it, which finds them here."""
    return tuple(tokenizer.encode(text).ids)


def load_tokenizer(directory: Path) -> Tokenizer:
    """Load the tokenizer of a Hugging Face model directory, with truncation and padding turned off.

    The name of a control token within a text, such as `<|im_end|>`, is encoded as the text that it is.
    """
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


class IncrementalDetokenizer:
    """Turns the token ids of one request into pieces of text. Joined, the pieces are the decoded text.

    A piece is empty while a character is incomplete. A character that is still incomplete at the end is dropped.
    """

    MAX_TOKENS_PER_CHARACTER = 4
    """One for each byte of UTF-8."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], eos: frozenset[int]) -> None:
        self._tokenizer, self._eos = tokenizer, eos
        # Decoding starts with the prompt's last character, because tokenizers may treat the first token of a text differently.
        suffixes = [prompt[-count:] for count in range(1, self.MAX_TOKENS_PER_CHARACTER + 1)]
        last = next((ids for ids in suffixes if not self._decode(ids).endswith(INCOMPLETE)), prompt[-1:])
        self._stream = DecodeStream(ids=last, skip_special_tokens=True)
        last_text = self._decode(last)
        self._repeated = last_text if last_text.endswith(INCOMPLETE) else ""
        """If the prompt ends within a character: its last text, which the stream repeats at the start of its first piece."""
        self._pending: list[int] = []
        """Ids for which the stream has not returned any text yet."""

    def token(self, ids: Sequence[int], cumulative_logprob: float | None = None, finish_reason: FinishReason | None = None) -> Token:
        """Return the `Token` for the next ids. The end-of-text token adds no text."""
        text = "".join(self._step(id) for id in ids if id not in self._eos)
        if finish_reason:
            text += self._flush()
        return Token(text, cumulative_logprob, finish_reason, len(ids), tuple(ids))

    def _flush(self) -> str:
        """Return the pending text if the model generated a replacement character as such; drop an incomplete character."""
        text = self._decode(self._pending)
        return text if self._tokenizer.encode(text, add_special_tokens=False).ids == self._pending else ""

    def _step(self, id: int) -> str:
        try:
            piece = self._stream.step(self._tokenizer, id)
        except Exception:  # a byte-fallback decoder (SentencePiece) found earlier bytes invalid: start a new stream
            self._stream = DecodeStream(skip_special_tokens=True)
            piece = self._stream.step(self._tokenizer, id)
        self._pending = [] if piece else [*self._pending, id]
        if piece and self._repeated:
            piece, self._repeated = piece.removeprefix(self._repeated), ""
        return piece or ""

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)
