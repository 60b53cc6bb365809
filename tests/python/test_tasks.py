"""Tasks of asyncio that make arrays and wait for ops: many at once, cancelled ones, and loops that end before an op."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref

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
    """Checks that this process does not hold more objects than before."""

    def held() -> int:
        gc.collect()
        muster.status()  # after this the daemon knows which refs this process dropped
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


def test_asyncio_waits_for_works(pair):
    """From Python 3.11 on asyncio.wait accepts works directly; before, it wraps them into tasks."""

    async def run():
        first = pair[0].allreduce(1, key="first")
        second = pair[0].allreduce(2, key="second")
        done, pending = await asyncio.wait([first, second], timeout=0.01)
        assert (len(done), len(pending)) == (0, 2)
        waiting = asyncio.ensure_future(asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED))
        await asyncio.sleep(0)
        other = pair[1].allreduce(10, key="first")
        done, pending = await waiting
        assert (len(done), len(pending)) == (1, 1)
        assert int(await done.pop()) == 11
        waiting = asyncio.ensure_future(asyncio.wait([first, second, other]))
        await asyncio.sleep(0)
        pair[1].allreduce(20, key="second")
        done, pending = await waiting
        assert sorted([int(await work) for work in done]) == [11, 11, 22]
        assert not pending
        done, pending = await asyncio.wait([first])
        assert (len(done), len(pending)) == (1, 0)

    asyncio.run(run())


def test_asyncio_waits_for_the_first_work_that_fails(muster, pair):
    async def run():
        fails = pair[0].allreduce(np.ones(2), key="fails")
        hangs = pair[0].allreduce(1, key="hangs")
        waiting = asyncio.ensure_future(asyncio.wait([fails, hangs], return_when=asyncio.FIRST_EXCEPTION))
        await asyncio.sleep(0)
        pair[1].allreduce(np.ones(3), key="fails")
        done, pending = await waiting
        assert len(pending) == 1
        with pytest.raises(muster.Mismatch):
            await done.pop()
        pair[1].allreduce(1, key="hangs")
        assert int(await hangs) == 2
        for task in pending:
            await task

    asyncio.run(run())


def test_a_loop_calls_what_was_given_in_it_and_not_what_was_removed(pair):
    async def run():
        loop, here = asyncio.get_running_loop(), threading.get_ident()
        called, over = [], loop.create_future()

        def removed(_):
            called.append("removed")

        work = pair[0].allreduce(1)
        work.add_done_callback(removed)
        work.add_done_callback(removed)
        work.add_done_callback(lambda given: called.append((given is work, threading.get_ident() == here)))
        work.add_done_callback(over.set_result)
        assert work.remove_done_callback(removed) == 2
        assert work.remove_done_callback(removed) == 0
        assert not work.cancelled()
        pair[1].allreduce(1)
        assert await over is work
        assert called == [(True, True)]
        # If the work is over, the loop makes the call, as for futures, and not this method itself.
        work.add_done_callback(called.append)
        assert len(called) == 1
        await asyncio.sleep(0)
        assert called[1:] == [work]

    asyncio.run(run())


def test_a_wait_that_is_over_leaves_nothing_at_a_pending_work(pair):
    class Given:
        def __call__(self, work): ...

    work, given = pair[0].allreduce(1), Given()
    left = weakref.ref(given)
    work.add_done_callback(given)
    assert work.remove_done_callback(given) == 1
    del given
    gc.collect()
    assert left() is None
    pair[1].allreduce(1)
    assert int(work.result()) == 2


def test_what_was_given_in_a_loop_that_has_ended_is_called_all_the_same(pair):
    called = []

    async def run():
        work = pair[0].allreduce(1)
        work.add_done_callback(called.append)
        return [work]

    (work,) = asyncio.run(run())
    pair[1].allreduce(1)
    assert int(work.result()) == 2
    assert called == [work]


@pytest.mark.parametrize("combine", [asyncio.gather, lambda work: asyncio.wait_for(work, 60), asyncio.shield])
def test_asyncio_takes_a_work_as_an_awaitable(pair, combine):
    async def run():
        work = pair[0].allreduce(1)
        pair[1].allreduce(1)
        return await combine(work)

    assert np.ravel(asyncio.run(run())).tolist() == [2]


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
