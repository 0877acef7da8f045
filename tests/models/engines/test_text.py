import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import PromptTooLong
from models.engines.text import IncrementalText, ModelLimits

EOS = 256


def decode(ids: list[int]) -> str:
    return bytes(id for id in ids if id != EOS).decode("utf-8", errors="replace")


@given(st.text(max_size=40), st.booleans())
def test_pieces_joined_are_the_text_and_none_is_half_a_character(text: str, ends: bool) -> None:
    ids = [*text.encode(), *([EOS] if ends else [])] or [EOS]
    incremental = IncrementalText([65], decode, frozenset([EOS]))
    reasons = [None] * (len(ids) - 1) + ["stop"]
    pieces = [incremental.token(id, -0.5, reason).text for id, reason in zip(ids, reasons, strict=True)]  # type: ignore[arg-type]
    assert "".join(pieces) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces) or "\N{REPLACEMENT CHARACTER}" in text


def test_a_tokenizer_that_drops_the_first_space_of_a_text_does_not_drop_it_within() -> None:
    words = {1: "▁The", 2: "▁cat", 3: "s"}

    def sentencepiece(ids: list[int]) -> str:
        return "".join(words[id] for id in ids).replace("▁", " ").removeprefix(" ")

    incremental = IncrementalText([1], sentencepiece, frozenset())
    assert [incremental.token(id, 0.0, None).text for id in (2, 3, 2)] == [" cat", "s", " cat"]


def test_what_is_cut_off_within_a_character_is_still_told() -> None:
    incremental = IncrementalText([65], decode, frozenset([EOS]))
    assert incremental.token("é".encode()[0], 0.0, "length").text == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("config", "eos", "expected"),
    [({"n_positions": 8}, 3, {3}), ({"max_position_embeddings": 8}, [3, 4], {3, 4}), ({"max_position_embeddings": 8}, None, set())],
)
def test_limits_are_read_from_the_directory(tmp_path: Path, config: dict[str, int], eos: object, expected: set[int]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos} if eos is not None else {}))
    limits = ModelLimits(tmp_path)
    assert limits.context_length == 8
    assert set(limits.eos) == expected
    limits.check(5, 3)
    with pytest.raises(PromptTooLong, match="6 tokens and with 3 new ones exceeds the model's context of 8"):
        limits.check(6, 3)
