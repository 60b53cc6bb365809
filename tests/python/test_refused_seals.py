"""The daemon refused an object: its ref always says so, and other objects are not harmed."""

from __future__ import annotations

import muster as package
import numpy as np
import pytest

from daemon import Daemon, run_ranks


@pytest.fixture
def small_daemon():
    daemon = Daemon("--memory", "64MiB")
    yield daemon
    daemon.stop()


def _put_too_many(_rank: int, count: int) -> tuple[int, int, int]:
    refs = [package.put(np.full(8, number)) for number in range(count)]

    def look() -> tuple[int, int]:
        right = refused = 0
        for number, ref in enumerate(refs):
            try:
                right += ref.get().tolist() == [number] * 8
            except package.QuotaExceeded:
                refused += 1
        return right, refused

    right, refused = look()
    # Memory of refused objects is used for the next ones.
    del refs[:100]
    more = [package.put(np.full(8, -1)) for _ in range(100)]
    del refs[:0]
    refs[:0] = more
    kept = sum(ref.get()[0] == -1 for ref in more)
    return right, refused, kept


def test_each_ref_has_its_own_value_or_says_why_not(small_daemon):
    count = 20_000
    ((right, refused, kept),) = run_ranks(small_daemon, _put_too_many, 1, count)
    assert right + refused == count
    assert refused > 2000
    assert right > 1000
    assert kept == 100


def _use_one_too_many(_rank: int) -> tuple[str, str]:
    group = package.group("g", rank=0, world_size=1)
    refs = [package.put(np.ones(3)) for _ in range(20)]
    with pytest.raises((package.ObjectLost, package.QuotaExceeded)) as of_op:
        group.allreduce(refs[-1]).result()
    with pytest.raises(package.QuotaExceeded) as of_get:  # the reason came before the op's outcome
        refs[-1].get()
    return str(of_op.value), str(of_get.value)


def test_an_object_beyond_the_limit_says_which_limit_that_is():
    daemon = Daemon("--memory", "64MiB", "--objects-max", "10")
    ((of_op, of_get),) = run_ranks(daemon, _use_one_too_many, 1)
    daemon.stop()
    assert "--objects-max" in of_op
    assert "the ref's object was not stored" in of_get
    assert "10 of at most 10 objects" in of_get
    assert "raise the daemon's limit, --objects-max" in of_get
