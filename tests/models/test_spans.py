"""The candidates of a passage, compared with what the tokenizer makes of every span by itself."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from models.spans import Node, Spans, SpanTrie
from models.spans.tokenization import is_made_of_words, word_offsets


def byte_tokenizer(*merges: tuple[str, str], use_regex: bool = False) -> Tokenizer:
    """A tokenizer of single bytes and of the given merges, spelled as in GPT-2's vocabulary."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZERS = {
    "symbols merge": byte_tokenizer(
        (".", '"'), ('."', ")"), (")", ","), ("%", ")"), ("a", "b"), ("'", "s"), ("Ġ", "a"), ("Ġ", "("), use_regex=True
    ),
    "bytes": byte_tokenizer(),
    "words merge": byte_tokenizer(("a", "Ġ"), ("aĠ", "b"), (".", ")")),
}
"""The last one does not split texts into words first."""

PASSAGES = st.text(st.sampled_from("aab5é._%'\"(),s    \n\t中ก\u0301\u0e34\u200b😀"), max_size=24) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=12
)


def paths(trie: SpanTrie, node: Node | None = None, ids: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Return all candidates, and check that every path leads to one."""
    node = node or trie.root
    tokens, children = trie.children(node)
    ends = trie.ends(node)
    assert ends or children or trie.empty
    if ends:
        yield ids
    for token, child in zip(tokens.tolist(), children, strict=True):
        yield from paths(trie, child, (*ids, token))


def expected(tokenizer: Tokenizer, passage: str, max_tokens: int) -> dict[tuple[int, int], tuple[int, ...]]:
    """Return the ids of each candidate by its offsets."""
    words = word_offsets(passage)
    symbol = [not character.isalnum() and not character.isspace() for character in passage]
    candidates = {}
    for number, (start, _) in enumerate(words):
        rest = tokenizer.encode(f" {passage[start:]}").ids
        for _, end in words[number:]:
            ids = tokenizer.encode(f" {passage[start:end]}").ids
            first_symbol = 1 < end < len(passage) and passage[end - 2].isalnum() and symbol[end - 1] and symbol[end]
            if len(ids) <= max_tokens and (first_symbol or rest[: len(ids)] == ids):
                candidates[start, end] = tuple(ids)
    return candidates


@pytest.mark.parametrize("name", TOKENIZERS)
@given(passage=PASSAGES, limit=st.integers(1, 16))
@example(passage='the "light." (50%), "a"), Ab\'s (a.").  A\tb\n\nc', limit=40)
@example(passage="  a b a", limit=3)
def test_the_candidates_are_the_spans_whose_tokens_the_passage_begins_with(name: str, passage: str, limit: int) -> None:
    tokenizer = TOKENIZERS[name]
    limit = max(limit, len(word_offsets(passage)))
    spans = Spans.of(tokenizer, passage, limit)
    found = list(paths(spans.trie))
    assert len(found) == len(set(found))
    by_offsets = {offsets: ids for ids in found for offsets in spans.occurrences(ids)}
    assert by_offsets == expected(tokenizer, passage, limit)
    assert sum(len(spans.occurrences(ids)) for ids in found) == len(by_offsets)
    for ids in found:
        occurrences = spans.occurrences(ids)
        assert occurrences == sorted(occurrences)
        assert {passage[start:end] for start, end in occurrences} == {tokenizer.decode(ids).strip()}


@given(passage=PASSAGES, limit=st.integers(1, 6))
def test_no_candidate_is_too_long_whatever_the_number_of_words(passage: str, limit: int) -> None:
    for tokenizer in TOKENIZERS.values():
        spans = Spans.of(tokenizer, passage, limit)
        for ids in paths(spans.trie):
            assert len(ids) <= limit
            assert {passage[start:end] for start, end in spans.occurrences(ids)} == {tokenizer.decode(ids).strip()}


def test_occurrences_of_one_text_share_a_node() -> None:
    passage = "The sea. It saw the sea, the SEA and the seal."
    spans = Spans.of(TOKENIZERS["bytes"], passage, 32)
    ids = TOKENIZERS["bytes"].encode(" sea").ids
    assert spans.occurrences(ids) == [match.span() for match in re.finditer(r"\bsea\b", passage)]
    assert spans.occurrences(ids[:2]) == []
    assert spans.occurrences([*ids, 5]) == []
    assert spans.occurrences([]) == []


@pytest.mark.parametrize("passage", ["", " \n\t "])
def test_a_blank_passage_has_no_candidates(passage: str) -> None:
    spans = Spans.of(TOKENIZERS["bytes"], passage, 32)
    assert spans.trie.empty
    assert spans.trie.depth == 0
    assert spans.trie.children(spans.trie.root)[1] == []


def test_a_passage_whose_words_are_all_too_long_has_no_candidates() -> None:
    assert Spans.of(TOKENIZERS["bytes"], "lighthouse keeper", 4).trie.empty


def test_a_tokenizer_with_merges_across_words_splits_nothing() -> None:
    spans = Spans.of(TOKENIZERS["words merge"], "a b", 8)
    assert sorted(offsets for ids in paths(spans.trie) for offsets in spans.occurrences(ids)) == [(0, 3), (2, 3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It rose 5.2% to $10, in 1889.", ["It", "rose", "5", ".", "2", "%", "to", "$", "10", ",", "in", "1889", "."]),
        ("naïve cafe\u0301\tx_y", ["naïve", "cafe\u0301", "x", "_", "y"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("東京タワーは333m", ["東", "京", "タ", "ワ", "ー", "は", "333m"]),
        ("ที่นี่", ["ที่", "นี่"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in word_offsets(text)] == words


@pytest.mark.parametrize(
    ("text", "part", "whole"),
    [("built in 1889.", "1", False), ("built in 1889.", "1889.", True), ("the Normans", "Norman", False), ("東京タワーは", "東京", True)],
)
def test_a_part_of_a_word_is_not_made_of_words(text: str, part: str, whole: bool) -> None:
    start = text.index(part)
    assert is_made_of_words(text, start, start + len(part)) == whole
