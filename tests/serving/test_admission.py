"""Admission without a server: the order, the bounds, and what cancelled requests leave behind."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.admission import Admission
from serving.problems import Problem

LIMIT, MAX_WAITING = 4, 6


class Request:
    """A request that holds its slot until it is released or cancelled."""

    def __init__(self, admission: Admission, texts: int, admitted: list["Request"]) -> None:
        self.texts, self.released = texts, asyncio.Event()
        self.task = asyncio.ensure_future(self._run(admission, admitted))

    async def _run(self, admission: Admission, admitted: list["Request"]) -> None:
        async with admission.slot(self.texts):
            admitted.append(self)
            await self.released.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# Each step takes so many texts, or releases or cancels one of the requests so far, with or without letting the others go on.
STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "take", "release", "cancel"]), st.integers(1, 6), st.booleans()), min_size=1, max_size=40
)


@given(STEPS)
def test_requests_are_admitted_in_order_within_the_bounds_and_leave_nothing_behind(steps: list[tuple[str, int, bool]]) -> None:
    async def main() -> None:
        admission = Admission("rnn", LIMIT, MAX_WAITING)
        requests, admitted = list[Request](), list[Request]()
        for action, number, settles in steps:
            if action == "take":
                await settle()  # a request that has just been given its slot learns of it an iteration later
                requests.append(Request(admission, number, admitted))
            elif requests:
                request = requests[number % len(requests)]
                request.released.set() if action == "release" else request.task.cancel()
            if settles:
                await settle()
            running = [request for request in admitted if not request.task.done() and not request.released.is_set()]
            assert admission.running <= LIMIT or len(running) <= 1
            assert 0 <= admission.waiting <= MAX_WAITING
        await settle()
        # Whoever waits does so because the first in the queue does not fit.
        waiting = [request for request in requests if not request.task.done() and request not in admitted]
        assert admission.waiting == sum(request.texts for request in waiting)
        assert admission.running == sum(request.texts for request in admitted if not request.task.done())
        assert not waiting or admission.running + waiting[0].texts > LIMIT
        assert admitted == [request for request in requests if request in admitted]
        for request in requests:
            request.released.set()
        await settle()
        for outcome in await asyncio.gather(*(request.task for request in requests), return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError | Problem)
        assert (admission.running, admission.waiting) == (0, 0)
        async with admission.slot(LIMIT):
            assert admission.running == LIMIT

    asyncio.run(main())


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def busy(admission: Admission, texts: int = 1) -> Problem:
    async def take() -> None:
        async with admission.slot(texts):
            raise AssertionError("admitted")

    with pytest.raises(Problem) as raised:
        take().send(None)  # the first step: it must not wait
    return raised.value


def test_too_many_waiting_texts_are_rejected_with_the_time_that_those_ahead_take() -> None:
    async def scenario() -> None:
        clock = Clock()
        admission = Admission("rnn", LIMIT, MAX_WAITING, clock=clock)
        for _ in range(20):  # two texts a second
            async with admission.slot(LIMIT):
                clock.now += 2
        clock.now += 1000  # idle time says nothing about the rate
        admitted: list[Request] = []
        requests = [Request(admission, texts, admitted) for texts in (LIMIT, MAX_WAITING)]
        await settle()
        problem = busy(admission, 2)
        assert (problem.status, problem.code) == (429, "too_many_requests")
        assert problem.headers == {"retry-after": "4"}  # eight texts must finish first
        assert "rnn" in problem.detail
        clock.now += 3600  # nothing finishes: the estimate grows up to its limit
        assert busy(admission).headers == {"retry-after": "60"}
        for request in requests:
            request.released.set()
        await asyncio.gather(*(request.task for request in requests))

    run(scenario)


def test_a_request_above_the_limit_is_admitted_alone() -> None:
    async def scenario() -> None:
        admission = Admission("rnn", LIMIT, 0)
        async with admission.slot(9):
            assert busy(admission).status == 429
        async with admission.slot(1):
            assert busy(admission, 9).status == 429

    run(scenario)


def test_one_model_does_not_delay_another() -> None:
    async def scenario() -> None:
        slow, quick = Admission("rnn", 1, 0), Admission("bigram", 1, 0)
        async with slow.slot(1):
            busy(slow)
            async with quick.slot(1):
                assert quick.running == 1

    run(scenario)
