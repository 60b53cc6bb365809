"""An object lives while Ray refers to the result that names it, and no longer."""

from __future__ import annotations

import gc
import os
import signal

import conftest
import muster
import numpy as np
import pytest
import ray
from muster.ray import _needs
from test_tasks import Gate, Worker, full

pytestmark = pytest.mark.usefixtures("objects")


def test_it_goes_with_the_last_reference(objects):
    ref = full.remote(1.0)
    ray.wait([ref])
    (row,) = objects()
    (holder,) = row["holders"]
    assert holder.startswith(f"token 'ray {ray.get_runtime_context().get_worker_id()} ")
    needs = dict(_needs._needed)
    del ref
    conftest.until(lambda: _needs._needed != needs)


def test_results_that_nobody_fetches_go(objects):
    refs = [full.remote(1.0) for _ in range(50)]
    ray.wait(refs, num_returns=50)
    assert len(objects()) == 50
    del refs
    conftest.until_empty()


def test_an_op_that_nobody_waits_for_keeps_nothing(objects):
    before = muster.status()["ops_done"]
    muster.allreduce_refs([full.remote(1.0), full.remote(2.0)])
    conftest.until(lambda: muster.status()["ops_done"] > before)

    def is_gone():
        muster.put(np.ones(1))  # what is over is noticed by the next call
        return not objects()

    conftest.until(is_gone, objects)


def test_it_stays_while_a_ref_of_muster_s_is_there(objects):
    stored = ray.get(full.remote(7.0))
    gc.collect()
    assert stored.get()[0] == 7
    array = stored.get()
    del stored
    assert array[0] == 7
    del array
    conftest.until_empty()


def test_it_stays_while_a_task_or_a_closure_names_it(objects):
    ref = full.remote(5.0, 3)
    ray.wait([ref])

    @ray.remote
    def slow(gate, x):
        ray.get(gate.wait.remote())
        return float(np.asarray(x).sum())

    gate = Gate.remote()
    direct = slow.remote(gate, ref)

    captured = ref

    @ray.remote
    def closure(gate):
        ray.get(gate.wait.remote())
        return float(muster.ray.get(captured).sum())

    by_closure = closure.remote(gate)
    del ref
    gc.collect()
    assert len(objects()) == 1
    ray.get(gate.open.remote())
    assert ray.get([direct, by_closure]) == [15, 15]
    conftest.until(lambda: len(objects()) == 1, objects)
    conftest.kept_for_good.add(objects()[0]["id"])
    ray.kill(gate)


@ray.remote
class Consumer:
    """Its methods wait while it is blocked, with their arguments."""

    async def block(self, gate):
        await gate.wait.remote()

    async def total(self, x):
        return float(np.asarray(x).sum())


@ray.remote
class Borrower:
    """Passes on what another process has submitted. It has only an ObjectRef of that, and lets go of it."""

    def pass_on(self, boxed, consumer):
        ray.wait(boxed)
        self.total = consumer.total.remote(boxed[0])

    def result(self):
        return ray.get(self.total)


@ray.remote
class Runner:
    @muster.collective_input
    def full(self, value, *unused):
        return np.full(3, value)

    def known_to_ray(self):
        return known_to_ray()


def known_to_ray():
    """How many of Ray's objects this process knows of."""
    return len(ray._private.worker.global_worker.core_worker.get_all_reference_counts())


@pytest.fixture
def blocked():
    """Returns a gate, and a consumer that is blocked until it is opened."""
    gate = Gate.remote()
    consumer = Consumer.options(max_concurrency=1).remote()
    blocking = consumer.block.remote(gate)
    ray.get(gate.has_come.remote(), timeout=conftest.PATIENCE_S)  # else calls of other processes may come first
    yield gate, consumer
    ray.get([gate.open.remote(), blocking], timeout=conftest.PATIENCE_S)
    ray.kill(gate)
    ray.kill(consumer)


def test_it_stays_for_tasks_that_have_not_begun(blocked):
    gate, consumer = blocked
    totals = []
    for value in range(5):
        ref = full.remote(float(value), 3)
        ray.wait([ref])  # so Ray copies the small result into the waiting task, and lets go of it
        totals.append(consumer.total.remote(ref))
        del ref
    gc.collect()
    ray.get(gate.open.remote())
    assert ray.get(totals) == [0, 3, 6, 9, 12]


def test_it_stays_for_tasks_of_borrowers_that_have_not_begun(objects, blocked):
    gate, consumer = blocked
    borrowers = [Borrower.remote() for _ in range(2)]
    ref = full.remote(4.0, 3)
    ray.get([borrower.pass_on.remote([ref], consumer) for borrower in borrowers])
    del ref
    gc.collect()
    assert len(objects()) == 1
    ray.get(gate.open.remote())
    assert ray.get([borrower.result.remote() for borrower in borrowers]) == [12, 12]
    for borrower in borrowers:
        ray.kill(borrower)


def test_it_stays_if_the_call_s_arguments_go_through_ray_s_store(objects, blocked):
    gate, consumer = blocked
    runner = Runner.remote()
    # Ray sends at most 10 MiB of arguments with a task. These leave no room for the one that names the marker.
    sizes = [99_000] * 110 + [99_000 >> i for i in range(1, 11)] + [90] * 9
    ref = runner.full.remote(2.0, *(b"x" * size for size in sizes))
    ray.wait([ref])
    total = consumer.total.remote(ref)
    del ref
    gc.collect()
    assert len(objects()) == 1
    ray.get(gate.open.remote())
    assert ray.get(total) == 6
    ray.kill(runner)


def test_calls_leave_nothing_in_ray_s_tables():
    runner = Runner.remote()
    many = 300

    def call(times):
        for value in range(times):
            assert muster.ray.get(runner.full.remote(float(value)))[0] == value
        return known_to_ray()

    before = call(100)
    after = call(many)
    assert after < before + many / 2  # markers that were made ahead come and go
    assert ray.get(runner.known_to_ray.remote()) < many / 2
    ray.kill(runner)


def test_it_stays_when_the_worker_that_made_it_is_gone(objects):
    worker = Worker.remote()
    ref = worker.gradient.remote(2)
    ray.wait([ref])
    os.kill(ray.get(worker.pid.remote()), signal.SIGKILL)
    assert muster.ray.get(ref).tolist() == [0, 2, 4, 6]
    del ref
    conftest.until_empty()


def test_the_owner_s_death_ends_it(objects):
    @ray.remote
    class Owner:
        def own(self):
            self.refs = [full.remote(1.0) for _ in range(5)]
            ray.wait(self.refs, num_returns=5)
            return os.getpid()

    owner = Owner.remote()
    pid = ray.get(owner.own.remote())
    assert len(objects()) == 5
    os.kill(pid, signal.SIGKILL)
    conftest.until_empty()


def test_refs_in_other_values_stay_while_ray_keeps_the_value(objects):
    @ray.remote
    def makes():
        return {"inner": muster.put(np.full(4, 3.0))}

    value = makes.remote()
    ray.wait([value])
    for _ in range(3):
        assert ray.get(value)["inner"].get()[0] == 3
    boxed = ray.put([ray.get(value)["inner"]])
    del value
    gc.collect()
    assert ray.get(boxed)[0].get()[0] == 3
    del boxed
    conftest.until_empty()


def test_a_ref_in_many_values_is_kept_once(objects):
    ref = muster.put(np.full(4, 3.0))
    for _ in range(3):
        values = [ray.put([ref]) for _ in range(3)]
        (row,) = objects()
        assert len([holder for holder in row["holders"] if holder.startswith("token")]) == 1
    ref.free()
    assert ray.get(values[-1])[0].get()[0] == 3
    del values
    gc.collect()
    conftest.until_empty()


def test_ray_s_own_store_stays_flat(objects):
    before = conftest.rays_mib()
    for _ in range(20):
        assert muster.ray.get(full.remote(1.0, 1_000_000))[0] == 1
    assert conftest.rays_mib() <= before + 1
