"""Marked functions as tasks."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import conftest
import muster
import numpy as np
import pytest
import ray
from muster.ray import _owned, _placing

pytestmark = pytest.mark.usefixtures("objects")


@ray.remote
@muster.collective_input
def full(value, size=1000):
    return np.full(size, value)


@muster.collective_input
@ray.remote
def outer(value):
    return {"w": np.full(3, value), "n": "name"}


@ray.remote
def doubled(x):
    assert isinstance(x, muster.Ref)
    return float(np.asarray(x).sum()) * 2


@pytest.mark.parametrize("task", [full, outer])
def test_a_task_gives_an_object_ref_of_a_ref(task):
    ref = task.remote(2.0)
    assert isinstance(ref, ray.ObjectRef)
    got = ray.get(ref)
    assert isinstance(got, muster.Ref)
    assert got.copies == 0
    value = muster.ray.get(ref)
    np.testing.assert_array_equal(value["w"] if task is outer else value, 2.0)


def test_options_and_keywords():
    ref = full.options(num_cpus=0.5, name="mine").remote(value=3.0, size=5)
    assert muster.ray.get(ref).tolist() == [3.0] * 5
    with pytest.raises(TypeError, match="unexpected keyword"):
        full.remote(1.0, other=2)


def test_several_results():
    @ray.remote(num_returns=2)
    @muster.collective_input
    def pair():
        return np.zeros(3), [np.ones(2), "x"]

    first, second = pair.remote()
    assert muster.ray.get(first).tolist() == [0] * 3
    got = muster.ray.get(second)
    assert got[0].tolist() == [1, 1]
    assert got[1] == "x"


def test_results_that_are_too_few_are_told():
    first, _ = full.options(num_returns=2).remote(1.0)
    with pytest.raises(muster.Invalid, match=r"several results, and the function returned .*leave that out"):
        muster.ray.get(first)


def test_a_result_is_an_argument_of_other_tasks():
    assert ray.get(doubled.remote(full.remote(2.0))) == 4000
    ready, pending = ray.wait([full.remote(1.0)], timeout=30)
    assert len(ready) == 1
    assert not pending


def test_an_op_over_results_of_tasks_is_a_result_itself():
    work = muster.allreduce_refs([full.remote(float(i)) for i in range(4)], op="mean")
    assert isinstance(work, muster.Work)
    np.testing.assert_array_equal(work.result(conftest.PATIENCE_S), 1.5)
    assert work.done()
    assert work.exception() is None
    assert ray.get(doubled.remote(work.ref)) == 3000
    assert len(muster.allgather_refs([full.remote(1.0), muster.put(np.ones(2))]).result()) == 2
    called = []
    work.add_done_callback(called.append)
    assert called == [work]


def test_an_op_over_results_of_tasks_can_be_awaited():
    async def run():
        return await muster.allreduce_refs([full.remote(1.0), full.remote(2.0)])

    assert asyncio.run(run())[0] == 3


def test_who_stops_waiting_does_not_cancel_the_op():
    gate = Gate.remote()
    work = muster.allreduce_refs([late.remote(gate), full.remote(1.0, 3)])

    async def run():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(work, 0.05)
        gate.open.remote()
        return await work

    assert asyncio.run(run()).tolist() == [2, 2, 2]
    ray.kill(gate)


@ray.remote(num_cpus=4)
def uses_all_cpus(wait):
    """Waits for tasks that have no CPU to run on but this task's."""
    work = muster.allreduce_refs([full.remote(1.0, 3), full.remote(2.0, 3)])
    if wait:
        assert muster.wait([work], timeout=conftest.PATIENCE_S) == ([work], [])
    return work.result(conftest.PATIENCE_S)[0]


@pytest.mark.parametrize("wait", [False, True])
def test_a_task_that_waits_for_others_lends_them_its_cpus(wait):
    assert ray.get(uses_all_cpus.remote(wait)) == 3


def test_a_task_that_fails_fails_the_op_with_its_error():
    @ray.remote
    @muster.collective_input
    def fails():
        raise ZeroDivisionError("nothing to divide by")

    work = muster.allreduce_refs([full.remote(1.0), fails.remote()])
    with pytest.raises(ZeroDivisionError, match="nothing to divide by"):
        work.result(conftest.PATIENCE_S)
    assert isinstance(work.exception(), ZeroDivisionError)
    assert "ZeroDivisionError" in repr(work)


@ray.remote
class Gate:
    def __init__(self):
        self.event = asyncio.Event()
        self.come = asyncio.Event()

    async def wait(self, value=None):
        """Returns the value when the gate is open."""
        self.come.set()
        await self.event.wait()
        return value

    async def has_come(self):
        """Returns when somebody waits."""
        await self.come.wait()

    async def open(self):
        self.event.set()


@ray.remote
@muster.collective_input
def late(gate):
    ray.get(gate.wait.remote())
    return np.ones(3)


def test_a_wait_that_is_too_short_says_how_many_tasks_are_missing():
    gate = Gate.remote()
    work = muster.allreduce_refs([late.remote(gate), late.remote(gate), full.remote(1.0, 3)])
    assert not work.done()
    with pytest.raises(muster.Timeout, match=r"allreduce_refs waited 0.1 s for \d tasks?"):
        work.result(0.1)
    assert not work.wait(0.01)
    assert "pending" in repr(work)
    assert muster.wait([work], timeout=0.01) == ([], [work])
    ray.get(gate.open.remote())
    assert work.result(conftest.PATIENCE_S).tolist() == [3, 3, 3]
    assert muster.wait([work], timeout=0) == ([work], [])
    ray.kill(gate)


def test_a_task_without_the_mark_is_named():
    @ray.remote
    def plain():
        return np.ones(3)

    with pytest.raises(muster.Invalid, match=r"a task returned a.*ndarray, not a muster.Ref .*mark its function"):
        muster.allreduce_refs([plain.remote(), full.remote(1.0)]).result(conftest.PATIENCE_S)


def test_functions_in_c_can_be_marked():
    assert muster.collective_input(max)([1, 2], [3, 4]).get() == [3, 4]  # has no signature
    assert muster.collective_input(np.add)(1, np.ones(2)).get().tolist() == [2, 2]


def test_what_can_t_be_marked():
    with pytest.raises(muster.Invalid, match="class of actors"):

        @muster.collective_input
        @ray.remote
        class Counter:
            pass

    with pytest.raises(muster.Invalid, match="generator"):

        @muster.collective_input
        @ray.remote
        def rows():
            yield np.ones(3)


@ray.remote
class Worker:
    def __init__(self):
        self.state = np.arange(4.0)

    @muster.collective_input
    def gradient(self, scale):
        return self.state * scale

    @ray.method(num_returns=2)
    @muster.collective_input
    def two(self):
        return np.ones(1), np.ones(2)

    def total(self, refs):
        return [float(np.asarray(ref).sum()) for ref in refs]

    def nested(self):
        """Submits a marked task from a worker."""
        return float(muster.ray.get(full.remote(4.0, 2)).sum())

    def pid(self):
        return os.getpid()


@ray.remote
class AsyncWorker:
    @muster.collective_input
    async def gradient(self, scale):
        await asyncio.sleep(0)
        return np.ones(3) * scale


def test_methods_of_actors():
    workers = [Worker.remote() for _ in range(3)]
    mean = muster.allreduce_refs([worker.gradient.remote(i) for i, worker in enumerate(workers)], op="mean")
    assert mean.result(conftest.PATIENCE_S).tolist() == [0, 1, 2, 3]
    one, two = workers[0].two.remote()
    assert [muster.ray.get(ref).size for ref in (one, two)] == [1, 2]
    assert ray.get(workers[0].nested.remote()) == 8
    assert ray.get(workers[1].total.remote([mean.ref, mean.ref])) == [6, 6]
    for worker in workers:
        ray.kill(worker)


def test_async_and_threaded_actors():
    worker = AsyncWorker.options(max_concurrency=4).remote()
    refs = [worker.gradient.remote(i) for i in range(8)]
    assert [int(muster.ray.get(ref)[0]) for ref in refs] == list(range(8))
    threaded = Worker.options(max_concurrency=3).remote()
    assert muster.allreduce_refs([threaded.gradient.remote(1) for _ in range(6)]).result(
        conftest.PATIENCE_S
    ).tolist() == [0, 6, 12, 18]


@ray.remote(concurrency_groups={"slow": 1, "fast": 2})
class InGroups:
    @ray.method(concurrency_group="slow")
    @muster.collective_input
    def late(self, gate):
        ray.get(gate.wait.remote())
        return np.full(2, 1.0)

    @ray.method(concurrency_group="fast")
    @muster.collective_input
    def soon(self, value):
        return np.full(2, value)


def test_concurrency_groups():
    gate, actor = Gate.remote(), InGroups.remote()
    waits = [actor.late.remote(gate) for _ in range(2)]
    assert muster.ray.get(actor.soon.remote(2.0), timeout=conftest.PATIENCE_S).tolist() == [2, 2]
    assert muster.ray.get(
        actor.soon.options(concurrency_group="fast").remote(3.0), timeout=conftest.PATIENCE_S
    ).tolist() == [3, 3]
    assert ray.wait(waits, timeout=0) == ([], waits)
    ray.get(gate.open.remote())
    assert muster.allreduce_refs(waits).result(conftest.PATIENCE_S).tolist() == [2, 2]
    for started in (gate, actor):
        ray.kill(started)


@ray.remote(max_retries=2, retry_exceptions=[ConnectionError])
@muster.collective_input
def fails_first(file, error):
    with Path(file).open("a") as runs:
        runs.write(".")
    if Path(file).stat().st_size < 3:
        raise error("at first")
    return np.ones(2)


def test_retry_exceptions(tmp_path):
    ran = fails_first.remote(str(tmp_path / "ran"), ConnectionError)
    assert muster.ray.get(ran, timeout=conftest.PATIENCE_S).tolist() == [1, 1]
    with pytest.raises(KeyError, match="at first"):
        muster.ray.get(fails_first.remote(str(tmp_path / "other"), KeyError), timeout=conftest.PATIENCE_S)
    assert (tmp_path / "other").read_text() == "."


@ray.remote
@muster.collective_input
def first(values):
    return np.full(2, values[0])


def in_itself():
    values = [4.0]
    values.append(values)
    return values


def deep():
    values = [4.0]
    for _ in range(600):
        values = [4.0, values]
    return values


@pytest.mark.parametrize("made", [in_itself, deep])
def test_arguments_of_any_depth(made, monkeypatch):
    monkeypatch.setattr(_placing, "_has_many_nodes", lambda: True)
    assert muster.ray.near(made()) == "DEFAULT"
    assert muster.ray.get(first.remote(made())).tolist() == [4, 4]


def test_a_call_that_was_not_submitted_keeps_nothing(objects, monkeypatch):
    ended, end = [], _owned.Owned.end
    monkeypatch.setattr(_owned.Owned, "end", lambda owned: ended.append(end(owned)))
    monkeypatch.setattr(_placing, "node_of", lambda values: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        full.remote(1.0)
    assert len(ended) == 1


def test_get_refuses_what_holds_itself():
    with pytest.raises(muster.Invalid, match="nests too deeply, or holds itself: a list"):
        muster.ray.get(in_itself())


def test_get_takes_any_nesting():
    value = {"a": [full.remote(1.0, 2), 5], "b": (muster.put(np.zeros(1)), ray.put("text"))}
    got = muster.ray.get(value)
    assert got["a"][0].tolist() == [1, 1]
    assert got["a"][1] == 5
    assert got["b"][0].tolist() == [0]
    assert got["b"][1] == "text"


def test_initializing_twice_changes_nothing_and_says_what_can_t_change(cluster):
    muster.ray.init()
    muster.ray.init(memory=conftest.MEMORY)
    with pytest.raises(muster.Invalid, match="uses Ray already"):
        muster.ray.init(num_cpus=3)
    with pytest.raises(muster.Invalid, match=r"256.*muster\.ray\.shutdown\(\)"):
        muster.ray.init(memory="1GiB")
