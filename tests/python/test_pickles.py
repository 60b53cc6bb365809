"""Pickled refs: what they keep, for how long, and what the error of a full store says about them."""

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
        # In the order in which calls end: imap() keeps later results back, and a late worker may wait for their memory.
        for ref in pool.imap_unordered(_make, range(calls)):
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
    # An object whose pickle was loaded may go; one whose pickle was never loaded stays.
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


def _make_and_wait(pipe, sizes: list[int]) -> None:
    package.init()
    for index, size in enumerate(sizes):
        pipe.send(package.put(np.full(size, index % 100, np.int8)))
    pipe.recv()


def _read_all(_rank: int, sizes: list[int]) -> int:
    package.init()
    ours, theirs = SPAWN.Pipe()
    maker = SPAWN.Process(target=_make_and_wait, args=(theirs, sizes))
    maker.start()
    for index in range(len(sizes)):
        ref = ours.recv()
        assert int(ref.get()[-1]) == index % 100
        ref.free()
    # The maker waits for something else, and reads no news.
    room = package.put(np.zeros(50 * MEBIBYTE, np.int8), timeout=20)
    ours.send("end")
    maker.join()
    return room.nbytes


@pytest.mark.parametrize("size", [200 << 10, 4 * MEBIBYTE, 30 * MEBIBYTE])
def test_what_readers_let_go_of_is_free_while_its_maker_waits_for_something_else(small_daemon, size):
    sizes = [size] * (56 * MEBIBYTE // size)
    assert run_ranks(small_daemon, _read_all, 1, sizes) == [50 * MEBIBYTE]


def _keep_views(_rank: int) -> None:
    """The maker keeps what it views itself, or still may write."""
    package.init()
    kept = []
    for index in range(6):
        ref = package.put(np.full(4 * MEBIBYTE, index, np.int8))
        view = ref.get()
        pickle.loads(pickle.dumps(ref)).free()
        ref.free()
        kept.append((index, view))
    array = package.empty(20 * MEBIBYTE, np.int8)
    array[:] = 77
    data = pickle.dumps(package.seal(array))
    for index, view in kept:
        assert view.min() == view.max() == index
    again = pickle.loads(data).get()
    assert again.min() == again.max() == array.min() == array.max() == 77


def test_what_its_maker_still_views_stays(small_daemon):
    run_ranks(small_daemon, _keep_views, 1)
