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


def test_it_stays_for_tasks_that_have_not_begun(objects):
    @ray.remote
    class Consumer:
        async def block(self, gate):
            await gate.wait.remote()

        async def total(self, x):
            return float(np.asarray(x).sum())

    gate = Gate.remote()
    consumer = Consumer.options(max_concurrency=1).remote()
    blocked = consumer.block.remote(gate)
    totals = []
    for value in range(5):
        ref = full.remote(float(value), 3)
        ray.wait([ref])  # so Ray copies the small result into the waiting task, and lets go of it
        totals.append(consumer.total.remote(ref))
        del ref
    gc.collect()
    ray.get(gate.open.remote())
    assert ray.get(totals) == [0, 3, 6, 9, 12]
    ray.get(blocked)
    ray.kill(gate)
    ray.kill(consumer)


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


def test_ray_s_own_store_stays_flat(objects):
    before = conftest.rays_mib()
    for _ in range(20):
        assert muster.ray.get(full.remote(1.0, 1_000_000))[0] == 1
    assert conftest.rays_mib() <= before + 1
