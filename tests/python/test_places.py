"""A call that fails on one rank takes its place among the group's ops, so later calls still match."""

from __future__ import annotations

import threading

import muster
import numpy as np
import pytest

from daemon import run_ranks


def _outcome(call):
    """Returns how the op ended: its value, or the kind of error and the ranks that it names."""
    try:
        result = call().result(20)
    except Exception as error:
        return type(error).__name__, getattr(error, "ranks", None), str(error)
    return ("done", None, float(np.sum(result)))


_MISTAKES = {
    "object array": lambda group: group.allreduce(np.array([object()])),
    "reduce op": lambda group: group.allreduce(np.ones(2), op="no such op"),
    "timeout": lambda group: group.allreduce(np.ones(2), timeout="soon"),
    "unknown argument": lambda group: group.allreduce(np.ones(2), colour="red"),
    "list of wrong length": lambda group: group.all_to_all([np.ones(1)] * 3),
    "rows": lambda group: group.reduce_scatter(np.ones(3)),
    "freed ref": lambda group: group.allreduce(_freed()),
}


def _freed():
    ref = muster.put(np.ones(2))
    ref.free()
    return ref


def _mistaken(rank, mistake):
    group = muster.group("g", rank=rank, world_size=2)
    wrong = _outcome(lambda: _MISTAKES[mistake](group) if rank == 1 else group.allreduce(np.ones(2)))
    return wrong, _outcome(lambda: group.allreduce(np.full(2, 10.0 + rank)))


@pytest.mark.parametrize("mistake", _MISTAKES)
def test_a_call_with_a_mistake_fails_on_every_rank_and_the_next_one_works(own_daemon, mistake):
    (here, next_here), (there, next_there) = run_ranks(own_daemon, _mistaken, 2, mistake)
    assert there[0] != "done"
    assert here[0] != "done"
    assert here[1] == [1]
    assert "rank 1 has no input" in here[2]
    assert next_here == next_there == ("done", None, 42.0)


def _send_something(rank, _):
    group = muster.group("g", rank=rank, world_size=2)
    if rank == 0:
        first = _outcome(lambda: group.send(np.array([object()]), dst=1, tag=3))
        group.send(np.full(2, 7.0), dst=1, tag=3).result(20)
        return first, None
    return _outcome(lambda: group.recv(src=0, tag=3)), _outcome(lambda: group.recv(src=0, tag=3))


def test_a_send_with_a_mistake_fails_its_own_recv(own_daemon):
    (sent, _), (received, then) = run_ranks(own_daemon, _send_something, 2, None)
    assert sent[0] == "Invalid"
    assert received[0] == "Invalid"
    assert "rank 0" in received[2]
    assert then == ("done", None, 14.0)


def _large_for_one(rank, _):
    """Rank 1's input of step 1 can't fit in the store; that of step 2 can."""
    group = muster.group("g", rank=rank, world_size=2)
    large = np.lib.stride_tricks.as_strided(np.zeros(1), (1 << 28,), (0,))  # 2 GiB for a store of 1 GiB
    first = _outcome(lambda: group.allreduce(large if rank == 1 else np.full(4, 1.0)))
    return first, _outcome(lambda: group.allreduce(np.full(4, 2.0)))


def test_an_input_that_does_not_fit_fails_its_own_step(own_daemon):
    (here, next_here), (there, next_there) = run_ranks(own_daemon, _large_for_one, 2, None)
    assert there[0] == here[0] == "OutOfMemory"
    assert here[1] == [1]
    assert next_here == next_there == ("done", None, 16.0)


class _Failing:
    """An input that can't be read, and says so when another thread has begun an op."""

    def __init__(self):
        self.is_read, self.goes_on = threading.Event(), threading.Event()

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **_):
        self.is_read.set()
        assert self.goes_on.wait(60)
        raise RuntimeError("it can't be read")


def _fail_while_another_thread_begins(rank, _):
    group = muster.group("g", rank=rank, world_size=2)
    if rank == 1:
        return _outcome(lambda: group.allreduce(np.ones(2), key="a")), _outcome(lambda: group.allreduce(1, key="b"))
    given, begun = _Failing(), []

    def begin():
        assert given.is_read.wait(60)
        begun.append(group.allreduce(1, key="b"))
        given.goes_on.set()

    other = threading.Thread(target=begin)
    other.start()
    failed = _outcome(lambda: group.allreduce(given, key="a"))
    other.join()
    return failed, _outcome(lambda: begun[0])


def test_a_call_that_fails_while_another_thread_begins_one_fails_on_every_rank(own_daemon):
    (failed, other), (here, other_here) = run_ranks(own_daemon, _fail_while_another_thread_begins, 2, None)
    assert "it can't be read" in failed[2]
    assert "rank 0 has no input" in here[2]
    assert other == other_here == ("done", None, 2.0)
