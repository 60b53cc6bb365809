"""What hangs on the futures of works: callbacks that begin ops, wait, and go on when the process ends."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading

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
        assert threads <= 4  # one for each callback around another, and one that watches


def begin_and_call(rank, *callbacks):
    """Begins an op for each callback. No op is over yet when it gets its callback, so another thread calls that."""
    peer = 1 - rank
    each = [dist.irecv(torch.zeros(1), peer, tag=tag).get_future().then(call) for tag, call in enumerate(callbacks)]
    dist.barrier()
    for tag in range(len(callbacks)):
        dist.send(torch.ones(1), peer, tag=tag)
    return each


def wait_for_another_callback(rank, ranks):
    is_called = threading.Event()
    first, second = begin_and_call(rank, lambda _: is_called.wait(worlds.PATIENCE_S), lambda _: is_called.set())
    second.wait()
    return first.wait()


def test_a_callback_may_wait_for_a_later_one(shared_daemon):
    assert worlds.run(shared_daemon, wait_for_another_callback, 2) == [True, True]


def wait_in_too_many(rank, ranks):
    _completions._THREADS_MAX, _completions._PATIENCE_S = 3, 0.0
    said, goes_on = threading.Event(), threading.Event()
    _completions._log.error = lambda *what: said.set()
    each = begin_and_call(rank, *[lambda _: goes_on.wait()] * 4)
    is_said = said.wait(worlds.PATIENCE_S)
    goes_on.set()
    return is_said, [future.wait() for future in each]


def test_too_many_callbacks_that_wait_for_others_are_said(shared_daemon):
    assert worlds.run(shared_daemon, wait_in_too_many, 2) == [(True, [True] * 4)] * 2


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
import sys, time, torch, torch.distributed as dist, muster.torch
dist.init_process_group("muster", init_method=sys.argv[1], rank=0, world_size=1)
def begin(): return dist.all_reduce(torch.ones(2), async_op=True).get_future()
kept = [
    begin().then(lambda future: time.sleep(0.05)),
    begin().then(lambda future: begin().wait()),
    begin().then(lambda future: [number * number for number in range(100_000)]),
    begin().then(lambda future: dist.recv(torch.ones(1))),
]
"""


@pytest.mark.parametrize("run", range(3))
def test_a_process_may_end_while_callbacks_go_on(shared_daemon, tmp_path, run):
    done = subprocess.run(
        [sys.executable, "-c", END, f"file://{tmp_path}/store"],
        env={**os.environ, "MUSTER_SOCKET": shared_daemon.socket},
        capture_output=True,
        text=True,
        check=False,
        timeout=worlds.PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")


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
