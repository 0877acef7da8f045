"""From token ids to text as they come: what both engines do around the model itself."""

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from models.base import FinishReason, PromptTooLong, Token


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


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face model directory; a prompt is never cut nor padded, whatever it was trained with."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class IncrementalText:
    """Turns one request's token ids into pieces of text whose concatenation is the decoded whole.

    A piece is empty while a character's bytes are incomplete; what is cut off within a character never appears.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], eos: frozenset[int]) -> None:
        self._tokenizer, self._eos = tokenizer, eos
        # The last token of the prompt: a tokenizer may treat one at the beginning of a text differently.
        self._stream = DecodeStream(ids=prompt[-1:], skip_special_tokens=True)

    def token(self, id: int, logprob: float, finish_reason: FinishReason | None) -> Token:
        """The `Token` for the next id; its text is empty for the end of the text."""
        piece = None if id in self._eos else self._stream.step(self._tokenizer, id)
        return Token(piece or "", logprob, finish_reason)
