"""Waits for the daemon inside NumPy's allocator and in put(): no other thread waits, and Ctrl-C ends the wait."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading
import time

import muster
import numpy as np
import pytest

from daemon import SPAWN, ranks, run_ranks

#: More than fits in a first segment, so the process has to ask the daemon.
LARGE = 100 << 20


ONES = np.ones(LARGE, np.uint8)


@muster.collective_input
def large() -> np.ndarray:
    return np.empty(LARGE, np.uint8)


@muster.collective_input
def total() -> np.ndarray:
    return ONES + ONES


@muster.collective_input
def zeros() -> np.ndarray:
    return np.zeros(LARGE, np.uint8)


@muster.collective_input
def copied() -> np.ndarray:
    return ONES.copy()


@muster.collective_input
def resized() -> np.ndarray:
    array = np.empty(8, np.uint8)
    array.resize(LARGE, refcheck=False)
    return array


def sealed() -> muster.Ref:
    return muster.put(np.zeros(LARGE, np.uint8))


def emptied() -> muster.Ref:
    return muster.seal(muster.empty(LARGE, np.uint8))


def of_many_leaves() -> muster.Ref:
    """Makes an object whose record is too long for the ring."""
    return muster.put([1.0] * 16_000)


def many() -> muster.Ref:
    """Makes objects until the ring is full, and more."""
    return [muster.put(1.0) for _ in range(20000)][-1]


def _other_threads_run(_rank, daemon_pid, make):
    muster.put(1.0)
    sys.setswitchinterval(1000)  # other threads run only if a thread lets go of the GIL
    about_to_wait, refs = threading.Event(), []

    def wait() -> None:
        about_to_wait.set()
        refs.append(make())

    os.kill(daemon_pid, signal.SIGSTOP)
    try:
        thread = threading.Thread(target=wait)
        thread.start()
        about_to_wait.wait()
    finally:
        # If the waiting thread kept this one from running, nobody would continue the daemon.
        os.kill(daemon_pid, signal.SIGCONT)
    thread.join()
    return refs[0].copies


@pytest.mark.parametrize(("make", "copies"), [(large, 0), (sealed, 1), (emptied, 0), (of_many_leaves, 0), (many, 0)])
def test_other_threads_run_while_one_waits_for_the_daemon(own_daemon, make, copies):
    assert run_ranks(own_daemon, _other_threads_run, 1, own_daemon.pid, make) == [copies]


def _is_interrupted(_rank, daemon_pid, make, ready):
    muster.init()
    os.kill(daemon_pid, signal.SIGSTOP)
    ready.set()
    try:
        make()
        for _ in range(1000):
            pass
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        os.kill(daemon_pid, signal.SIGCONT)
    return "went on"


def in_poll(pid: int) -> bool:
    """Whether the main thread is in poll or ppoll on x86, or in ppoll on ARM."""
    number = pathlib.Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return number in ("7", "271", "73")


@pytest.mark.parametrize("make", [large, total, zeros, copied, resized, sealed, emptied, of_many_leaves])
def test_ctrl_c_ends_a_wait_for_the_daemon(own_daemon, make):
    ready = SPAWN.Event()
    with ranks(own_daemon, _is_interrupted, 1, own_daemon.pid, make, ready) as (processes, results):
        assert ready.wait(60)
        while not in_poll(processes[0].pid):
            assert processes[0].is_alive()
        os.kill(processes[0].pid, signal.SIGINT)
        assert results.get(timeout=60) == (0, True, "interrupted")


DEADLINE_S = 1
#: Generous, for slow machines: a wait for an answer takes 10 s or more.
LATEST_S = 4


def _timed_out(call) -> bool:
    try:
        call()
    except muster.Timeout:
        return True
    return False


def _until_the_ring_is_full(call) -> bool:
    return any(_timed_out(call) for _ in range(50_000))


def _pending():
    group = muster.group("pending", rank=0, world_size=2, timeout=60)
    work = group.barrier()
    return group, work


def due_by_its_own_deadline():
    group, _ = _pending()
    return lambda: _timed_out(lambda: group.barrier(timeout=DEADLINE_S).result())


def a_wait():
    group, work = _pending()
    return lambda group=group: _timed_out(lambda: work.result(timeout=DEADLINE_S))


def a_wait_for_any():
    group, work = _pending()
    return lambda group=group: muster.wait([work], timeout=DEADLINE_S) == ([], [work])


def a_result_to_map():
    work = muster.allreduce_refs([muster.put(ONES)])
    assert work.wait(60)
    return lambda: _timed_out(lambda: work.result(timeout=DEADLINE_S))


def joining():
    return lambda: _timed_out(lambda: muster.group("late", rank=0, world_size=2, timeout=DEADLINE_S))


def putting():
    return lambda: _timed_out(lambda: muster.put(ONES, timeout=DEADLINE_S))


def putting_an_input():
    group = muster.group("pending", rank=0, world_size=2, timeout=DEADLINE_S)
    return lambda: _timed_out(lambda: group.allreduce(ONES))


def emptying():
    return lambda: _timed_out(lambda: muster.empty(LARGE, np.uint8, timeout=DEADLINE_S))


def putting_small_things():
    muster.put(1.0)
    return lambda: _until_the_ring_is_full(lambda: muster.put(1.0, timeout=DEADLINE_S))


def putting_many_leaves():
    value = [1.0] * 16_000
    muster.put(value)
    return lambda: _timed_out(lambda: muster.put(value, timeout=DEADLINE_S))


def combining():
    ref = muster.put(1.0)
    return lambda: _until_the_ring_is_full(lambda: muster.allreduce_refs([ref], timeout=DEADLINE_S))


def contributing():
    group = muster.group("pending", rank=0, world_size=2, timeout=DEADLINE_S)
    return lambda: _until_the_ring_is_full(group.barrier)


def _beside_a_stopped_daemon(_rank, daemon_pid, prepare):
    muster.init()
    call = prepare()
    os.kill(daemon_pid, signal.SIGSTOP)
    begin = time.monotonic()
    try:
        return call(), time.monotonic() - begin
    finally:
        os.kill(daemon_pid, signal.SIGCONT)


@pytest.mark.parametrize(
    "prepare",
    [
        due_by_its_own_deadline,
        a_wait,
        a_wait_for_any,
        a_result_to_map,
        joining,
        putting,
        putting_an_input,
        emptying,
        putting_small_things,
        putting_many_leaves,
        combining,
        contributing,
    ],
)
def test_a_call_with_a_deadline_ends_then_beside_a_stopped_daemon(own_daemon, prepare):
    [(timed_out, took_s)] = run_ranks(own_daemon, _beside_a_stopped_daemon, 1, own_daemon.pid, prepare)
    assert timed_out
    assert DEADLINE_S * 0.9 < took_s < LATEST_S
