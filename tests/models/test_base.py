import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import FinishReason, Token, until_stop


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
