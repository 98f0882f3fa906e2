"""Long work in the hub's loop: one slice of it in each round, whoever's it is."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pagemerge.hub import turns


async def work(items: int, seconds: float, awaited: bool = False) -> int:
    """Some of it."""
    for _ in range(items):
        await turns.breathe(awaited=awaited)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
    return items


def test_others_wait_for_one_slice_and_not_for_all() -> None:
    """Fifty at work, and one who comes by once in each round of the loop."""

    async def main() -> None:
        busy = [asyncio.create_task(work(10, 0.0005)) for _ in range(50)]
        waits = []
        while not all(it.done() for it in busy):
            began = time.perf_counter()
            await asyncio.sleep(0)
            waits.append(time.perf_counter() - began)
        assert sum(it.result() for it in busy) == 500
        waits.sort()
        assert waits[len(waits) * 9 // 10] < 10 * turns.SLICE, "25 ms if each has a slice"
        assert len(waits) > 200, "250 ms, in slices"

    asyncio.run(main())


def test_what_a_program_waits_for_does_not_wait_for_all_else() -> None:
    """Every other slice is its own, however many are at work in the background."""

    async def main() -> None:
        busy = [asyncio.create_task(work(20, turns.SLICE)) for _ in range(50)]
        await asyncio.sleep(0)
        began = time.perf_counter()
        await work(10, turns.SLICE, awaited=True)
        took = time.perf_counter() - began
        assert took < 100 * turns.SLICE, "500 of them if it took its place behind the others"
        for task in busy:
            task.cancel()

    asyncio.run(main())


def test_a_thread_that_is_waited_for_and_one_that_is_not() -> None:
    forever = threading.Event()

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            done = await turns.work_in(pool, lambda: 7, 10)
            assert done.result() == 7
            late = await turns.work_in(pool, forever.wait, 0.05)
            assert not late.done()
            forever.set()
            assert late.result(10)
            failed = await turns.work_in(pool, lambda: 1 // 0, 10)
            with pytest.raises(ZeroDivisionError):
                failed.result()
        with pytest.raises(RuntimeError):
            await turns.work_in(pool, forever.wait, 0.05)

    asyncio.run(main())


def test_who_gives_up_keeps_nobody_waiting() -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(work(3, 0.001)) for _ in range(9)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert found[1::2] == [3] * 4
        assert all(isinstance(it, asyncio.CancelledError) for it in found[::2])
        assert await work(3, 0.001) == 3

    asyncio.run(main())


def test_a_second_loop_has_turns_of_its_own() -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(_fails())


async def _fails() -> None:
    await turns.breathe()
    raise ZeroDivisionError
