"""Turns on the event loop: one in each iteration, to the text with the least work."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from models import turns
from models.turns import Turns


def test_one_text_gets_a_turn_in_each_iteration_of_the_event_loop() -> None:
    async def main() -> list[int]:
        shared, iterations, taken = Turns(), [0], list[int]()

        async def count_iterations() -> None:
            while True:
                iterations[0] += 1
                await asyncio.sleep(0)

        async def text() -> None:
            for work in range(20):
                await shared.take(work)
                taken.append(iterations[0])

        counter = asyncio.ensure_future(count_iterations())
        await asyncio.gather(*(text() for _ in range(10)))
        counter.cancel()
        return taken

    taken = asyncio.run(main())
    assert len(taken) == len(set(taken)) == 200


def test_a_new_text_overtakes_those_with_more_work() -> None:
    async def main() -> list[str]:
        shared, order = Turns(), list[str]()

        async def text(name: str, work: int) -> None:
            await shared.take(work)
            order.append(name)

        await asyncio.gather(*(text(*each) for each in (("first", 90), ("long", 80), ("longer", 90), ("short", 10), ("new", 0))))
        return order

    assert asyncio.run(main()) == ["first", "new", "short", "long", "longer"]


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_a_cancelled_text_takes_no_turn_and_holds_up_no_other(cancelled: list[bool]) -> None:
    async def main() -> list[int]:
        shared, order = Turns(), list[int]()

        async def text(number: int) -> None:
            await shared.take(number)
            order.append(number)

        tasks = [asyncio.ensure_future(text(number)) for number in range(len(cancelled))]
        await shared.take(0)  # before the tasks run, which therefore wait
        await asyncio.sleep(0)
        for task, cancel in zip(tasks, cancelled, strict=True):
            if cancel:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await shared.take(0)
        return order

    assert asyncio.run(main()) == [number for number, cancel in enumerate(cancelled) if not cancel]


def test_a_turn_ends() -> None:
    async def main() -> None:
        turn = await Turns().take(0)
        while not turn.is_over:
            await asyncio.sleep(turns.SLICE_SECONDS)

    asyncio.run(main())
