import asyncio
import itertools
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import FinishReason, Logprob, Token, until_stop


async def stream(pieces: list[str]) -> AsyncGenerator[Token]:
    for at, piece in enumerate(pieces, start=1):
        yield Token(piece, -1.0, "length" if at == len(pieces) else None)


def stopped(pieces: list[str], stop: tuple[str, ...]) -> tuple[str, FinishReason | None]:
    async def collect() -> list[Token]:
        return [token async for token in until_stop(stream(pieces), stop)]

    tokens = asyncio.run(collect())
    assert all(token.finish_reason is None for token in tokens[:-1])
    return "".join(token.text for token in tokens), tokens[-1].finish_reason


@given(
    st.lists(st.text(alphabet="ab.", max_size=4), min_size=1, max_size=8),
    st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), max_size=3),
)
def test_the_text_ends_before_the_first_stop_string_however_it_is_tokenized(pieces: list[str], stop: list[str]) -> None:
    whole = "".join(pieces)
    text, reason = stopped(pieces, tuple(stop))
    assert whole.startswith(text)
    assert not any(word in text for word in stop)
    if not any(word in whole for word in stop):
        assert (text, reason) == (whole, "length")
    else:
        assert reason == "stop"
        assert any(whole.startswith(word, len(text)) for word in stop)


def entry(text: str, place: int) -> Logprob:
    return Logprob(f"{place}:{text}", len(text), -1.0, ())


@given(
    st.lists(st.text(alphabet="ab.", max_size=4), min_size=1, max_size=8),
    st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_logprob_is_sent_only_with_the_whole_text_of_its_token(pieces: list[str], stop: list[str]) -> None:
    entries = [entry(piece, place) for place, piece in enumerate(pieces)]

    async def source() -> AsyncGenerator[Token]:
        async for token in stream(pieces):
            yield replace(token, logprobs=(entries.pop(0),))

    async def collect(expected: list[Logprob]) -> list[Logprob]:
        sent, text = list[Logprob](), ""
        async for token in until_stop(source(), tuple(stop)):
            text, sent = text + token.text, [*sent, *token.logprobs]
            if not token.finish_reason:
                assert sum(each.characters for each in sent) <= len(text)
        is_cut = len(text) < len("".join(pieces))
        offsets = itertools.accumulate((each.characters for each in expected), initial=0)
        assert sent == [each for each, offset in zip(expected, offsets, strict=False) if offset < len(text) or not is_cut]
        return sent

    asyncio.run(collect([*entries]))


def test_no_logprob_tells_what_a_stop_string_hides() -> None:
    async def source() -> AsyncGenerator[Token]:
        for place, text in enumerate(["one", " tw", "o", " three"]):
            yield Token(text, logprobs=(entry(text, place),))

    async def collect() -> list[tuple[str, list[str]]]:
        return [(token.text, [each.text for each in token.logprobs]) async for token in until_stop(source(), (" two",))]

    assert asyncio.run(collect()) == [("one", ["0:one"]), ("", []), ("", [])]


def test_the_logprobs_of_a_text_that_the_engine_has_cut_end_with_it() -> None:
    async def source() -> AsyncGenerator[Token]:
        yield Token("one", finish_reason="stop", count=3, logprobs=tuple(entry(text, 0) for text in ("one", " two", "")))

    async def collect() -> list[str]:
        return [each.text async for token in until_stop(source(), (" two",)) for each in token.logprobs]

    assert asyncio.run(collect()) == ["0:one"]


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        (["one", " two", " three"], (" two",), "one"),
        (["on", "e tw", "o three"], ("two",), "one "),
        (["aab"], ("ab", "b"), "a"),
    ],
)
def test_examples_of_stop_strings(pieces: list[str], stop: tuple[str, ...], expected: str) -> None:
    assert stopped(pieces, stop) == (expected, "stop")


def test_closing_the_stream_or_reaching_a_stop_string_closes_the_source() -> None:
    closed = []

    async def endless() -> AsyncGenerator[Token]:
        try:
            while True:
                yield Token("ab", -1.0)
        finally:
            closed.append(True)

    async def leave() -> None:
        tokens = until_stop(endless(), ())
        await anext(tokens)
        await tokens.aclose()
        assert len(closed) == 1
        assert [token.finish_reason async for token in until_stop(endless(), ("ba",))] == [None, "stop"]
        assert len(closed) == 2

    asyncio.run(leave())


def test_text_is_released_as_soon_as_it_cannot_begin_a_stop_string() -> None:
    async def first() -> str:
        async for token in until_stop(stream(["abc", "d", "e"]), ("cx",)):
            return token.text
        return ""

    assert asyncio.run(first()) == "ab"
