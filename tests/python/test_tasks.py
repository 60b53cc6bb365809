"""Tasks of asyncio that make arrays and wait for ops: many at once, cancelled ones, and loops that end before an op."""

from __future__ import annotations

import asyncio
import gc
import os
import threading

import muster as package
import numpy as np
import pytest

TASKS = 40


@package.collective_input
async def filled(value: float, go_on: asyncio.Event) -> np.ndarray:
    array = np.full(1000, value)
    await go_on.wait()
    array += 1
    return array


@pytest.fixture
def nothing_kept(muster, shared_daemon):
    """This process must not hold more objects than before."""

    def held() -> int:
        gc.collect()
        muster.status()  # after this the daemon knows what was let go
        return sum(client["held"] for client in shared_daemon.status()["clients"] if client["pid"] == os.getpid())

    before = held()
    yield
    assert held() == before


@pytest.fixture
def pair(muster, nothing_kept):
    groups = [muster.group("tasks", rank=rank, world_size=2) for rank in range(2)]
    yield groups
    for group in groups:
        group.leave()


def test_decorated_coroutines_that_all_run_at_once(muster, nothing_kept):
    async def run():
        go_on = asyncio.Event()
        tasks = [asyncio.create_task(filled(value, go_on)) for value in range(TASKS)]
        await asyncio.sleep(0)
        go_on.set()
        refs = await asyncio.gather(*tasks)
        assert [ref.copies for ref in refs] == [0] * TASKS
        assert [float(ref.get()[-1]) for ref in refs] == [value + 1 for value in range(TASKS)]
        return await muster.allreduce_refs(refs)

    np.testing.assert_array_equal(asyncio.run(run()), np.full(1000, np.arange(TASKS).sum() + TASKS))


def test_cancelled_coroutines_leave_nothing_and_the_others_are_right(nothing_kept):
    async def run():
        go_on = asyncio.Event()
        tasks = [asyncio.create_task(filled(value, go_on)) for value in range(TASKS)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        go_on.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert np._core.multiarray.get_handler_name() == "default_allocator"
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
        return [(ref.copies, float(ref.get().sum())) for ref in outcomes[1::2]]

    assert asyncio.run(run()) == [(0, 1000.0 * (value + 1)) for value in range(1, TASKS, 2)]


def test_some_of_many_tasks_that_await_one_op_are_cancelled(pair):
    async def wait(work):
        return await work

    async def run():
        work = pair[0].allreduce(np.arange(3))
        tasks = [asyncio.create_task(wait(work)) for _ in range(TASKS)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        other = await pair[1].allreduce(np.arange(3))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
        for found in [other, *outcomes[1::2]]:
            np.testing.assert_array_equal(found, 2 * np.arange(3))

    asyncio.run(run())


def test_a_loop_may_end_before_the_op_that_it_gave_up(pair, monkeypatch):
    unraised = []
    monkeypatch.setattr("sys.unraisablehook", unraised.append)

    async def give_up(work):
        with pytest.raises((asyncio.TimeoutError, TimeoutError)):
            await asyncio.wait_for(work, 0.01)

    async def wait(work):
        return await work

    work = pair[0].allreduce(np.arange(3))
    asyncio.run(give_up(work))
    np.testing.assert_array_equal(pair[1].allreduce(np.arange(3)).result(), 2 * np.arange(3))
    np.testing.assert_array_equal(asyncio.run(wait(work)), 2 * np.arange(3))
    assert unraised == []


def test_each_thread_may_have_a_loop(pair):
    found = {}

    async def both(number):
        works = [group.allreduce(np.full(3, number), key=str(number)) for group in pair]
        return [await work for work in works]

    def run(number):
        found[number] = asyncio.run(both(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        np.testing.assert_array_equal(found[number], np.full((2, 3), 2 * number))


def test_decorated_functions_in_threads_of_a_loop(muster, nothing_kept):
    @muster.collective_input
    def squares(count):
        return np.arange(count) ** 2

    async def run():
        return await asyncio.gather(*(asyncio.to_thread(squares, count) for count in range(1, TASKS)))

    for count, ref in enumerate(asyncio.run(run()), start=1):
        assert ref.copies == 0
        np.testing.assert_array_equal(ref.get(), np.arange(count) ** 2)
    del ref
