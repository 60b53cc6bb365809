"""Memory lives as long as somebody can see it, and is used again after that."""

from __future__ import annotations

import gc
import os
import pickle

import muster as package
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from muster import status


def make(value: float, size: int) -> package.Ref:
    @package.collective_input
    def filled():
        return {"a": np.full(size, value), "b": [np.full(3, value)]}

    return filled()


class Lives(RuleBasedStateMachine):
    """Refs, views, slices and pickles are made and dropped in any order; everything that can be seen keeps its value.

    New objects with other values are made all the time, so a region that is used again too early shows.
    """

    def __init__(self):
        super().__init__()
        package.init()
        self.refs: list = []
        self.arrays: list = []
        self.works: list = []
        self.value = 0.0

    @rule(size=st.sampled_from([1, 100, 5000, 40_000]))
    def deposit(self, size):
        self.value += 1
        self.refs.append((make(self.value, size), self.value))

    @rule(pick=st.integers(0, 99))
    def view(self, pick):
        if self.refs:
            ref, value = self.refs[pick % len(self.refs)]
            self.arrays.append((ref.get()["a"], value))

    @rule(pick=st.integers(0, 99))
    def slice_view(self, pick):
        if self.arrays:
            array, value = self.arrays[pick % len(self.arrays)]
            self.arrays.append((array[len(array) // 2 :], value))

    @rule(pick=st.integers(0, 99))
    def copy_ref(self, pick):
        if self.refs:
            ref, value = self.refs[pick % len(self.refs)]
            self.refs.append((pickle.loads(pickle.dumps(ref)), value))

    @rule(pick=st.integers(0, 99))
    def reduce(self, pick):
        if self.refs:
            ref, value = self.refs[pick % len(self.refs)]
            work = package.allreduce_refs([ref, ref])
            self.arrays.append((work.result()["a"], 2 * value))

    @rule(pick=st.integers(0, 99))
    def drop_ref(self, pick):
        if self.refs:
            self.refs.pop(pick % len(self.refs))

    @rule(pick=st.integers(0, 99))
    def drop_array(self, pick):
        if self.arrays:
            self.arrays.pop(pick % len(self.arrays))

    @invariant()
    def everything_keeps_its_value(self):
        for array, value in self.arrays:
            assert (array == value).all()
        for ref, value in self.refs:
            got = ref.get()
            assert (got["a"] == value).all()
            assert (got["b"][0] == value).all()


@pytest.mark.usefixtures("muster")
class TestLives(Lives.TestCase):
    settings = settings(
        max_examples=30,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def objects(daemon) -> int:
    """Returns how many objects this process has made. Objects of other tests' processes may go meanwhile."""
    gc.collect()
    status()  # after this the daemon knows which refs this process dropped
    return sum(client["objects"] for client in daemon.status()["clients"] if client["pid"] == os.getpid())


def test_dropping_everything_frees_everything(muster, shared_daemon):
    before = objects(shared_daemon)
    refs = [make(1.0, 1000) for _ in range(20)]
    views = [ref.get()["a"] for ref in refs]
    assert objects(shared_daemon) == before + 20
    del refs
    assert objects(shared_daemon) == before + 20
    del views
    assert objects(shared_daemon) == before


def test_free_drops_this_hold_only(muster):
    ref = muster.put(np.arange(5))
    view = ref.get()
    ref.free()
    np.testing.assert_array_equal(view, np.arange(5))
    with pytest.raises(package.ObjectLost, match="freed"):
        ref.get()


def test_a_result_outlives_its_group_and_inputs(muster):
    with muster.group("lives", rank=0, world_size=1) as group:
        result = group.allreduce(np.arange(5), op="mean").result()
    np.testing.assert_array_equal(result, np.arange(5))


def test_memory_is_used_again(muster):
    peak = status()["memory_used_bytes"]
    for value in range(50):
        ref = make(float(value), 1 << 19)
        assert ref.get()["a"][0] == value
    assert status()["memory_used_bytes"] <= peak + (128 << 20)


def test_a_ref_may_be_pickled_and_unpickled_any_number_of_times(muster):
    ref = muster.put(np.arange(5))
    pickled = pickle.dumps(ref)
    assert len(pickled) < 400
    copies = [pickle.loads(pickled) for _ in range(5)]
    del ref
    for copy in copies:
        np.testing.assert_array_equal(copy.get(), np.arange(5))
    del copies
    np.testing.assert_array_equal(pickle.loads(pickled).get(), np.arange(5))


def test_a_pickled_ref_alone_keeps_its_object_for_the_lease_only():
    from daemon import Daemon, run_ranks

    daemon = Daemon("--pickle-lease", "0.05")
    try:
        assert run_ranks(daemon, _expire, 1) == ["ObjectLost"]
    finally:
        daemon.stop()


def _expire(_rank):
    pickled = pickle.dumps(package.put(np.arange(5)))
    while package.status()["objects"]:
        pass
    with pytest.raises(package.ObjectLost, match="lease") as error:
        pickle.loads(pickled)
    return error.value.code
