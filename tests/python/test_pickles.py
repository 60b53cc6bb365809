"""Pickled refs: what they keep, for how long, and what a full store says of them."""

from __future__ import annotations

import pickle

import muster as package
import numpy as np
import pytest

from daemon import SPAWN, Daemon, run_ranks

MEBIBYTE = 1 << 20
MEMORY = 64 * MEBIBYTE


@pytest.fixture
def small_daemon():
    daemon = Daemon("--memory", str(MEMORY))
    yield daemon
    daemon.stop()


def _make(number: int) -> package.Ref:
    return package.put(np.full(MEBIBYTE, number, np.int32))


def _sweep(_rank: int, calls: int) -> int:
    package.init()
    total = 0
    with SPAWN.Pool(2) as pool:
        for ref in pool.imap(_make, range(calls)):
            total += int(ref.get()[-1])
            ref.free()
        pool.close()
        pool.join()
    return total


def test_a_pool_may_return_more_than_the_store_holds_in_all(small_daemon):
    calls = 100  # of 4 MiB each
    assert run_ranks(small_daemon, _sweep, 1, calls) == [sum(range(calls))]


def _fill(_rank: int) -> str:
    package.init()
    pickles = [pickle.dumps(package.put(np.zeros(10 * MEBIBYTE, np.int8))) for _ in range(5)]
    with pytest.raises(package.OutOfMemory) as full:
        package.put(np.zeros(30 * MEBIBYTE, np.int8), timeout=0.5)
    # Loaded once, it may go; and what was never loaded stays.
    for data in pickles[:3]:
        pickle.loads(data).free()
    package.put(np.zeros(30 * MEBIBYTE, np.int8)).free()
    with pytest.raises(package.ObjectLost, match="others needed the room"):
        pickle.loads(pickles[0])
    for data in pickles[3:]:
        pickle.loads(data).get()
    return str(full.value)


def test_a_full_store_says_what_pickles_keep_and_they_go_once_loaded(small_daemon):
    (message,) = run_ranks(small_daemon, _fill, 1)
    assert "pickled refs keep 50 MiB" in message
    assert "--pickle-lease (now 600 s)" in message
