"""Very many tasks, and very many bytes: nothing is left behind."""

from __future__ import annotations

import gc

import conftest
import muster
import muster.ray
import numpy as np
import pytest
import ray
from muster.ray import _owned

pytestmark = pytest.mark.usefixtures("objects")
TASKS = 10_000
AT_ONCE = 500
GIB = 1 << 30
PIECE = 16 << 20


@ray.remote(num_cpus=0.5)
@muster.collective_input
def small(value):
    return np.full(4, float(value))


def test_ten_thousand_small_tasks_leave_nothing(objects):
    before = conftest.rays_mib(), len(_owned._calls)
    total = 0.0
    for begin in range(0, TASKS, AT_ONCE):
        refs = [small.remote(value) for value in range(begin, begin + AT_ONCE)]
        total += sum(array[0] for array in muster.ray.get(refs))
        del refs
    assert total == TASKS * (TASKS - 1) / 2
    conftest.until_empty()
    gc.collect()
    conftest.until(lambda: len(_owned._calls) == before[1], lambda: len(_owned._calls))
    assert conftest.rays_mib() <= before[0] + 1
    told = muster.status()
    assert told["objects"] == len(objects()) == 0


class Maker:
    """An actor whose method is marked, so that its segments are used again."""

    @muster.collective_input
    def make(self, value):
        return np.full(PIECE // 4, value, np.float32)


@ray.remote
def look(array):
    return float(np.asarray(array)[-1])


def test_ten_gib_pass_and_ray_s_store_stays_flat(objects):
    before, segments = conftest.rays_mib(), muster.status()["segments"]
    makers = [ray.remote(Maker).remote() for _ in range(2)]
    most = 0
    for value in range(10 * GIB // PIECE // len(makers)):
        refs = [maker.make.remote(value) for maker in makers]
        assert ray.get([look.remote(ref) for ref in refs]) == [value] * 2
        most = max(most, conftest.rays_mib()) if value % 64 == 0 else most
        del refs
    assert most <= before + 1
    for maker in makers:
        ray.kill(maker)
    conftest.until_empty()
    # What is used then are the rings of clients, and the segments that workers of other tests have.
    conftest.until(lambda: muster.status()["segments"] <= segments, lambda: muster.status())
