"""From token ids to text as they come: what both engines do around the model itself."""

import json
from collections.abc import Callable
from pathlib import Path

from models.base import FinishReason, PromptTooLong, Token

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What decoders put where the bytes of a character are not all there yet."""


class ModelLimits:
    """What generation must know of a Hugging Face model directory: its context and the tokens that end a text."""

    def __init__(self, directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        generation = json.loads((directory / "generation_config.json").read_text())
        self.context_length: int = config.get("max_position_embeddings") or config["n_positions"]
        eos = generation.get("eos_token_id")
        self.eos = frozenset([] if eos is None else [eos] if isinstance(eos, int) else eos)

    def check(self, prompt_tokens: int, length: int) -> None:
        """Raise `PromptTooLong` where the prompt and `length` new tokens do not fit."""
        if prompt_tokens + length > self.context_length:
            raise PromptTooLong(prompt_tokens, length, self.context_length)


class IncrementalText:
    """Turns one request's token ids into pieces of text whose concatenation is the decoded whole.

    Decodes a short window that begins before the new token, since a tokenizer may treat a token at the beginning of a text
    differently, and holds text back while its last character is incomplete.
    """

    WINDOW = 8
    """Tokens after which the window begins anew."""

    def __init__(self, prompt: list[int], decode: Callable[[list[int]], str], eos: frozenset[int]) -> None:
        self._decode, self._eos = decode, eos
        self._window = prompt[-1:]
        self._given = decode(self._window)
        """The window's text that need not be given out (any more)."""

    def token(self, id: int, logprob: float, finish_reason: FinishReason | None) -> Token:
        """The `Token` for the next id; its text is empty while a character is incomplete, and for the end of the text."""
        if id not in self._eos:
            self._window.append(id)
        text = self._decode(self._window)
        if text.endswith(INCOMPLETE) and finish_reason is None:
            return Token("", logprob)
        piece, self._given = text[len(self._given) :], text
        if len(self._window) > self.WINDOW:
            self._window = self._window[-1:]
            self._given = self._decode(self._window)
        return Token(piece, logprob, finish_reason)
