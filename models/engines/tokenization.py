"""From token ids to text as they come: what both engines do around the model itself."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from models.base import FinishReason, Prompt, PromptTooLong, Token, UnknownIds

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What decoders put where the bytes of a character are not all there."""


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


def encode(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """The ids of a prompt. Raises `UnknownIds`."""
    if isinstance(prompt, str):
        ids: list[int] = tokenizer.encode(prompt).ids
        return ids
    size = tokenizer.get_vocab_size()
    if wrong := [id for id in prompt if not 0 <= id < size]:
        raise UnknownIds(f"the model has {size:,} tokens: {wrong[0]} is the id of none")
    return list(prompt)


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face model directory; a prompt is never cut nor padded, whatever it was trained with."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class IncrementalDetokenizer:
    """Turns one request's token ids into pieces of text whose concatenation is the decoded whole.

    A piece is empty while a character's bytes are incomplete; what is cut off within a character never appears.
    """

    BYTES = 4
    """Tokens that a character may be spread over."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], eos: frozenset[int]) -> None:
        self._tokenizer, self._eos = tokenizer, eos
        # The prompt's last character goes before: a tokenizer may treat a token at the beginning of a text differently.
        ends = [prompt[-count:] for count in range(1, self.BYTES + 1)]
        end = next((ids for ids in ends if not self._decode(ids).endswith(INCOMPLETE)), prompt[-1:])
        self._stream = DecodeStream(ids=end, skip_special_tokens=True)
        self._skip = self._decode(end) if self._decode(end).endswith(INCOMPLETE) else ""
        """What the stream gives again of a prompt that ends within a character."""
        self._held: list[int] = []
        """What the stream has given nothing for yet."""

    def token(self, ids: Sequence[int], logprob: float | None, finish_reason: FinishReason | None = None) -> Token:
        """The `Token` for the next ids, which together have this log-probability; the end of the text adds nothing to it."""
        text = "".join(self._step(id) for id in ids if id not in self._eos)
        return Token(text + self._rest() if finish_reason else text, logprob, finish_reason, len(ids), tuple(ids))

    def _rest(self) -> str:
        """What the stream holds back at the end: a replacement character that was written as such, but no half of another character."""
        text = self._decode(self._held)
        return text if self._tokenizer.encode(text, add_special_tokens=False).ids == self._held else ""

    def _step(self, id: int) -> str:
        try:
            piece = self._stream.step(self._tokenizer, id)
        except Exception:  # a decoder that reads bytes anew, as SentencePiece's, and calls what was read before invalid: begin anew too
            self._stream = DecodeStream(skip_special_tokens=True)
            piece = self._stream.step(self._tokenizer, id)
        self._held = [] if piece else [*self._held, id]
        if piece and self._skip:
            piece, self._skip = piece.removeprefix(self._skip), ""
        return piece or ""

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)
