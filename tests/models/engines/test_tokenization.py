import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from models.base import PromptTooLong
from models.engines.tokenization import IncrementalDetokenizer, ModelLimits, encode, load_tokenizer

BYTE_SYMBOLS = pre_tokenizers.ByteLevel.alphabet()
BYTES = Tokenizer(models.BPE({symbol: n for n, symbol in enumerate(sorted(BYTE_SYMBOLS))}, []))
"""A tokenizer with one token for each byte, spelled as in GPT-2's vocabulary, and an end-of-text token."""
BYTES.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
BYTES.decoder = decoders.ByteLevel()
BYTES.add_special_tokens(["<end>"])
EOS = BYTES.encode("<end>").ids[0]


@given(st.text(max_size=40), st.booleans())
@example("\N{REPLACEMENT CHARACTER}", False)
def test_joined_pieces_are_the_text_and_no_piece_is_half_a_character(text: str, with_eos: bool) -> None:
    ids = [*BYTES.encode(text).ids, *([EOS] if with_eos else [])] or [EOS]
    incremental = IncrementalDetokenizer(BYTES, BYTES.encode("A").ids, frozenset([EOS]))
    reasons = [None] * (len(ids) - 1) + ["stop"]
    pieces = [incremental.token([id], -0.5, reason).text for id, reason in zip(ids, reasons, strict=True)]  # type: ignore[arg-type]
    assert "".join(pieces) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces) or "\N{REPLACEMENT CHARACTER}" in text


@given(st.text(max_size=8), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\N{REPLACEMENT CHARACTER}"), max_size=8))
def test_no_part_of_the_prompt_is_repeated(prompt: str, text: str) -> None:
    incremental = IncrementalDetokenizer(BYTES, BYTES.encode(prompt).ids or [EOS], frozenset([EOS]))
    assert "".join(incremental.token([id], -0.5, None).text for id in BYTES.encode(text).ids) == text


def test_a_decoder_that_rejects_earlier_bytes_does_not_end_the_text() -> None:
    ids = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁so": 256}
    llama = Tokenizer(models.BPE(ids, [], byte_fallback=True))
    llama.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    incremental = IncrementalDetokenizer(llama, [256], frozenset())
    assert "".join(incremental.token([id], 0.0, None).text for id in (0xC3, 0xA9, 0xFF, 256)).endswith("▁so")


def test_a_leading_space_that_the_decoder_would_drop_is_kept_within_a_text() -> None:
    sentencepiece = Tokenizer(models.WordLevel({"▁The": 0, "▁cat": 1, "s": 2}))
    sentencepiece.decoder = decoders.Metaspace()
    incremental = IncrementalDetokenizer(sentencepiece, [0], frozenset())
    assert [incremental.token([id], 0.0, None).text for id in (1, 2, 1)] == [" cat", "s", " cat"]


def test_an_incomplete_character_at_the_end_is_dropped() -> None:
    incremental = IncrementalDetokenizer(BYTES, BYTES.encode("A").ids, frozenset([EOS]))
    assert incremental.token(BYTES.encode("é").ids[:1], 0.0, "length").text == ""


def test_a_prompt_is_never_truncated(tmp_path: Path) -> None:
    BYTES.enable_truncation(3)
    BYTES.save(str(tmp_path / "tokenizer.json"))
    BYTES.no_truncation()
    assert len(load_tokenizer(tmp_path).encode("lighthouse").ids) == 10


def test_a_text_that_was_encoded_before_has_the_ids_of_its_own_tokenizer() -> None:
    first, second = (Tokenizer(models.WordLevel({"light": id}, unk_token="light")) for id in (3, 5))
    for _ in range(2):
        for tokenizer, id in ((first, 3), (second, 5)):
            ids = encode(tokenizer, "light")
            assert ids == [id]
            ids.append(7)  # the caller's list, which is not kept


def test_the_name_of_a_control_token_in_a_text_is_text(tmp_path: Path) -> None:
    BYTES.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    text = "a<end>b"
    assert EOS in BYTES.encode(text).ids
    assert EOS not in tokenizer.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


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
