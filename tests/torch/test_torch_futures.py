"""What hangs on the futures of works: callbacks that begin ops, wait, and go on when the process ends."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading
import time

import muster
import muster.torch
import pytest
import torch
import torch.distributed as dist
import worlds
from muster.torch import _completions


def begin(*arguments, **options):
    return dist.all_reduce(*arguments, async_op=True, **options).get_future()


def reduce_in_callbacks(rank, ranks):
    """The callbacks' ops match only if all ranks begin them in the same order. The larger op is over later."""
    other = dist.new_group()

    def reduce(value):
        tensor = torch.full((4,), float(value))
        dist.all_reduce(tensor, group=other)
        return tensor[0].item()

    wrong = []
    for _ in range(100):
        each = [begin(torch.ones(100_000 // (value + 1))).then(lambda _, v=value: reduce(v)) for value in range(6)]
        wrong += [(value, future.value()) for value, future in enumerate(each) if future.wait() != ranks * value]
    return wrong


def test_callbacks_are_called_in_the_order_of_their_ops(shared_daemon):
    assert worlds.run(shared_daemon, reduce_in_callbacks, 2) == [[], []]


def wait_in_callbacks(rank, ranks):
    second, third = dist.new_group(), dist.new_group()

    def reduce_again(future):
        return begin(future.value()[0], group=second).then(reduce_once_more).wait()

    def reduce_once_more(future):
        return begin(future.value()[0], group=third).wait()[0].item()

    each = [begin(torch.ones(1)).then(reduce_again) for _ in range(200)]
    return {future.wait() for future in each}, len(_completions._completer._threads)


def test_any_number_of_callbacks_may_wait_for_ops_of_their_own(shared_daemon):
    for values, threads in worlds.run(shared_daemon, wait_in_callbacks, 2):
        assert values == {8}
        assert threads < 20  # one for each callback around another, one that watches, and those that are idle soon


def wait_in_callbacks_of_two_groups(rank, ranks):
    """Which group's op is over first differs from rank to rank, and each callback needs the other rank's."""
    first, second, third, fourth = (dist.new_group() for _ in range(4))
    for _ in range(300):
        each = [
            begin(torch.ones(10_000), group=first).then(lambda _: begin(torch.ones(1), group=third).wait()),
            begin(torch.ones(1), group=second).then(lambda _: begin(torch.ones(1), group=fourth).wait()),
        ]
        for future in each:
            future.wait()


def test_callbacks_of_two_groups_do_not_wait_for_each_other(shared_daemon):
    worlds.run(shared_daemon, wait_in_callbacks_of_two_groups, 2)


def begin_and_call(rank, *callbacks):
    """On ranks 0 and 1, begins an op for each callback. Rank 2 begins them when each has its callback.

    So another thread calls those: that of an op which is over would be called at once.
    """
    if rank == 2:
        for source in (0, 1):
            dist.recv(torch.zeros(1), source)
        for _ in callbacks:
            dist.all_reduce(torch.ones(1))
        return []
    each = [begin(torch.ones(1)).then(call) for call in callbacks]
    dist.send(torch.ones(1), 2)
    return each


def begin_late(rank, ranks):
    _completions._PATIENCE_S = 1.0
    other = dist.new_group([0, 1])

    def reduce(value):
        tensor = torch.full((1,), float(value))
        dist.all_reduce(tensor, group=other)
        return tensor.item()

    def reduce_twice(_):
        if rank == 1:
            dist.recv(torch.ones(1), 0)  # rank 0 waits in its first one meanwhile
        return reduce(1), reduce(10)

    each = begin_and_call(rank, reduce_twice, lambda _: reduce(100))
    if rank == 0:
        time.sleep(2.5)  # longer than a callback may wait for anything else
        dist.send(torch.ones(1), 1)
    return [future.wait() for future in each]


def test_a_callback_that_waits_in_an_op_is_not_overtaken(shared_daemon):
    assert worlds.run(shared_daemon, begin_late, 3)[:2] == [[(2, 20), 200]] * 2


def wait_for_another_callback(rank, ranks):
    _completions._PATIENCE_S = 0.2
    is_called = threading.Event()
    return [
        future.wait()
        for future in begin_and_call(rank, lambda _: is_called.wait(worlds.PATIENCE_S), lambda _: is_called.set())
    ]


def test_a_callback_may_wait_for_a_later_one(shared_daemon):
    assert worlds.run(shared_daemon, wait_for_another_callback, 3)[:2] == [[True, None]] * 2


def wait_too_deep(rank, ranks):
    _completions._THREADS_MAX = 4
    groups = [dist.new_group() for _ in range(8)]

    def go_deeper(depth):
        if depth == len(groups):
            return "the end"
        return begin(torch.ones(1), group=groups[depth]).then(lambda _: go_deeper(depth + 1)).wait()

    with pytest.raises(RuntimeError) as found:
        begin(torch.ones(1)).then(lambda _: go_deeper(0)).wait()
    after = begin(torch.ones(1))  # the others go on
    return str(found.value), after.wait()[0].item()


def test_callbacks_in_callbacks_are_bounded(shared_daemon):
    for message, after in worlds.run(shared_daemon, wait_too_deep, 1):
        assert "QuotaExceeded" in message
        assert "callbacks of futures wait" in message
        assert after == 1


def begin_without_threads(rank, ranks):
    work = dist.all_reduce(torch.ones(1), async_op=True)
    _completions._THREADS_MAX = 0
    with pytest.raises((muster.QuotaExceeded, RuntimeError), match="no thread that completes"):
        work.get_future()
    _completions._THREADS_MAX = 64
    return work.get_future().wait()[0].item()


def test_a_future_may_be_asked_for_again_when_there_was_no_thread(shared_daemon):
    assert worlds.run(shared_daemon, begin_without_threads, 2) == [2, 2]


def wait_in_a_callback_of_muster(rank, ranks):
    """A thread that waits for any op calls it. On rank 0 only the one that watches works with futures does."""
    group, ends, other = muster.torch.seat().muster_group, threading.Event(), dist.new_group()
    future = begin(torch.ones(1)) if rank == 0 else None
    work = group.allreduce(1, key="of Muster")
    work.add_done_callback(lambda _: (begin(torch.ones(1), group=other).wait(), ends.set()))
    if rank == 1:
        work.result()
        future = begin(torch.ones(1))
    assert ends.wait(worlds.PATIENCE_S)
    return future.wait()[0].item()


def test_a_callback_of_muster_may_wait_for_a_future(shared_daemon):
    assert worlds.run(shared_daemon, wait_in_a_callback_of_muster, 2) == [2, 2]


def call_back_in_the_thread_that_watches(rank, called):
    """On rank 0 only that thread waits for an op."""
    group, ends = muster.torch.seat().muster_group, threading.Event()
    store = dist.distributed_c10d._get_default_store()
    if rank == 0:
        group.allreduce(1, key="of Muster").add_done_callback(lambda _: (called(), ends.set()))
        store.set("has a callback", "")
        assert ends.wait(worlds.PATIENCE_S)
    else:
        store.get("has a callback")
        group.allreduce(1, key="of Muster").result()


def wait_for_what_was_asked_before(rank, ranks):
    other, told = dist.new_group(), threading.Event()
    if rank == 0:
        future = begin(torch.ones(1), group=other)
        threading.Thread(target=lambda: (told.wait(), dist.barrier())).start()
        call_back_in_the_thread_that_watches(rank, lambda: (told.set(), future.wait()))
    else:
        call_back_in_the_thread_that_watches(rank, None)
        dist.barrier()
        future = begin(torch.ones(1), group=other)
    return future.wait()[0].item()


def test_a_callback_of_muster_may_wait_for_a_future_that_was_asked_for_before(shared_daemon):
    assert worlds.run(shared_daemon, wait_for_what_was_asked_before, 2) == [2, 2]


def ask_without_threads(rank, ranks):
    other, pending, told = dist.new_group(), None, []
    if rank == 0:
        _completions._THREADS_MAX = 1
        pending = begin(torch.ones(1))
    call_back_in_the_thread_that_watches(rank, lambda: told.append(worlds.caught(begin, torch.ones(1), group=other)[0]))
    _completions._THREADS_MAX = 64
    if rank == 1:
        pending = begin(torch.ones(1))
        dist.all_reduce(torch.ones(1), group=other)
    return pending.wait()[0].item(), told


def test_a_callback_of_muster_for_which_there_is_no_thread_is_told(shared_daemon):
    assert worlds.run(shared_daemon, ask_without_threads, 2) == [(2, ["QuotaExceeded"]), (2, [])]


def begin_one_after_the_other(rank, ranks):
    ends = threading.Event()

    def begin_next(left):
        if left == 0:
            ends.set()
        else:
            begin(torch.ones(1)).then(lambda _: begin_next(left - 1))

    begin_next(500)
    assert ends.wait(worlds.PATIENCE_S)
    order = _completions._completer._order
    worlds.wait_until(lambda: order.running == 0)
    return len(order._queues) + len(order._running)


def test_a_chain_of_callbacks_leaves_nothing_behind(shared_daemon):
    assert worlds.run(shared_daemon, begin_one_after_the_other, 2) == [0, 0]


def read_after_a_wait(rank, ranks):
    tensor = torch.ones(1)
    work = dist.all_reduce(tensor, async_op=True)
    futures = [work.get_future() for _ in range(2)]
    work.wait()
    assert tensor.item() == ranks
    return [future.wait()[0].item() for future in (*futures, work.get_future())]


def test_a_work_may_be_waited_for_and_have_futures(shared_daemon):
    assert worlds.run(shared_daemon, read_after_a_wait, 2) == [[2.0] * 3] * 2


END = """
import atexit, sys, threading
begins = threading.Event()

def ask_late():
    begin().wait()  # no thread is left to complete it
    assert work.get_future().done()
    muster.torch._seat_base._CALLBACKS_AT_THE_END_S = 1000
    dist.destroy_process_group()  # waits for no callbacks: nobody calls them any more

atexit.register(ask_late)  # is called after what the next line registers
import torch, torch.distributed as dist, muster.torch

dist.init_process_group("muster", init_method=sys.argv[1], rank=0, world_size=1)

def begin():
    return dist.all_reduce(torch.ones(2), async_op=True).get_future()

def go_on(_):
    begins.set()
    {callback}

work = dist.all_reduce(torch.ones(2), async_op=True)
with muster.torch._completions._completer._watching:  # so another thread calls it
    kept = begin().then(go_on)
assert begins.wait(60)
"""
CALLBACKS = {
    "compute": "print(len([number * number for number in range(3_000_000)]))",
    "sleep": "__import__('time').sleep(1.5)",
    "wait for an op of their own": "begin().wait()",
    "wait for what never comes": "threading.Event().wait()",
}


@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
def test_a_process_may_end_while_callbacks(shared_daemon, tmp_path, callback):
    done = subprocess.run(
        [sys.executable, "-c", END.replace("{callback}", callback), f"file://{tmp_path}/store"],
        env={**os.environ, "MUSTER_SOCKET": shared_daemon.socket},
        capture_output=True,
        text=True,
        check=False,
        timeout=worlds.PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert "terminate" not in done.stderr
    assert "nanobind" not in done.stderr


def begin_in_a_child(rank, ranks):
    future = begin(torch.ones(1)).then(lambda _: os.getpid())
    child = os.fork()
    if child == 0:
        seat = muster.torch.Seat(dist.HashStore(), 0, 1, datetime.timedelta(seconds=30))
        mine = seat.allreduce([torch.ones(1)]).get_future().then(lambda _: os.getpid())
        os._exit(0 if mine.wait() == os.getpid() else 1)
    _, status = os.waitpid(child, 0)
    return status, future.wait() == os.getpid()


def test_a_forked_child_has_futures_of_its_own(shared_daemon):
    assert worlds.run(shared_daemon, begin_in_a_child, 2) == [(0, True)] * 2
