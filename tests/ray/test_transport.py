"""Muster as a transport of Ray Direct Transport: tensors that methods return stay in the store."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import conftest
import muster
import muster.ray
import numpy as np
import pytest
import ray
import ray.experimental.collective
import torch

pytestmark = pytest.mark.usefixtures("objects")


@ray.remote(num_cpus=0.5, max_restarts=-1)
class Worker:
    @ray.method(tensor_transport="muster")
    def tensor(self, value, size=1000):
        return torch.full((size,), float(value))

    @ray.method(tensor_transport="muster")
    def nested(self, value):
        return {"w": torch.full((3,), float(value)), "b": [torch.ones(2), "text"]}

    @ray.method(tensor_transport="muster")
    def two(self, value):
        return [torch.full((2,), float(value)), torch.ones(3)]

    @ray.method(tensor_transport="muster")
    def none(self):
        return "no tensors"

    @ray.method(tensor_transport="muster")
    def sparse(self):
        return torch.eye(3).to_sparse()

    @ray.method(tensor_transport="muster")
    def fails(self):
        raise ZeroDivisionError("nothing to divide by")

    @ray.method(tensor_transport="muster_numpy")
    def array(self, value):
        return {"w": np.full(1000, value)}

    def total(self, *values):
        return float(sum(value.sum() for value in values))

    def text(self, value):
        return repr(value)

    def of_nested(self, refs):
        return [float(ray.get(ref).sum()) for ref in refs]

    def writes(self, tensor):
        tensor += 1
        return float(tensor.sum())

    def is_mapped(self, tensor):
        """Whether the tensor lies in memory that processes share, and not in this process's own."""
        address = tensor.data_ptr() if isinstance(tensor, torch.Tensor) else tensor.ctypes.data
        for line in Path("/proc/self/maps").read_text().splitlines():
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if begin <= address < end:
                return "memfd:muster" in line
        return False

    def pid(self):
        return os.getpid()


@pytest.fixture(scope="module")
def workers(cluster):
    made = [Worker.remote() for _ in range(2)]
    ray.get([worker.pid.remote() for worker in made])
    yield made
    for worker in made:
        ray.kill(worker)


def test_tensors_go_from_actor_to_actor(workers):
    a, b = workers
    ref = a.tensor.remote(2)
    assert ray.get(b.total.remote(ref)) == 2000
    assert ray.get(b.total.remote(ref, a.tensor.remote(1))) == 3000
    assert ray.get(a.total.remote(a.tensor.remote(1))) == 1000  # its own
    assert ray.get(b.text.remote(a.none.remote())) == "'no tensors'"
    assert "[3., 3., 3.]" in ray.get(b.text.remote(a.nested.remote(3)))
    assert "text" in ray.get(b.text.remote(a.nested.remote(3)))


def test_the_receiver_maps_them(workers):
    a, b = workers
    assert ray.get(b.is_mapped.remote(a.tensor.remote(1, 1 << 20)))
    assert not ray.get(b.is_mapped.remote(torch.ones(1 << 20)))


def test_numpy_s_arrays_have_a_transport_of_their_own(workers):
    a, b = workers
    ref = a.array.remote(2.0)
    assert "2." in ray.get(b.text.remote(ref))
    got = ray.get(ref)["w"]
    assert got.sum() == 2000
    assert not got.flags.writeable


def test_the_driver_gets_and_puts(workers):
    a, b = workers
    assert ray.get(a.tensor.remote(2)).sum() == 2000
    assert muster.ray.get({"x": [a.tensor.remote(3)]})["x"][0].sum() == 3000
    put = ray.put(torch.ones(5), _tensor_transport="muster")
    assert ray.get(b.total.remote(put)) == 5
    assert ray.get(b.of_nested.remote([put])) == [5]
    assert ray.get(put).tolist() == [1] * 5
    assert ray.get(b.total.remote(ray.put(np.ones(4), _tensor_transport="muster_numpy"))) == 4


def test_a_task_puts():
    @ray.remote
    def makes():
        ref = ray.put(torch.ones(6), _tensor_transport="muster")
        return float(ray.get(ref).sum())

    assert ray.get(makes.remote()) == 6


def test_a_task_gets(workers):
    @ray.remote
    def total(refs):
        return float(sum(ray.get(ref).sum() for ref in refs))

    refs = [workers[0].tensor.remote(2), ray.put(torch.ones(3), _tensor_transport="muster")]
    ray.wait(refs, num_returns=2)
    assert ray.get(total.remote(refs)) == 2003


def test_a_receiver_s_writes_are_its_own(workers):
    a, b = workers
    ref = a.tensor.remote(1)
    assert ray.get(b.writes.remote(ref)) == 2000
    assert ray.get(b.total.remote(ref)) == 1000


def test_buffers_of_the_caller(workers):
    buffer = torch.zeros(1000)
    ref = workers[0].tensor.remote(4)
    ray.wait([ref])
    ray.experimental.set_target_for_ref(ref, [buffer])
    assert ray.get(ref) is buffer
    assert buffer.sum() == 4000


def test_who_receives_late_receives(workers):
    """The reference is dropped while the receiver is not even started."""
    a, _ = workers

    @ray.remote(num_cpus=0, enable_tensor_transport=True)
    class Late:
        def __init__(self, gate):
            ray.get(gate.passed.remote())

        def total(self, x):
            return float(x.sum())

    gate = Gate.remote()
    late = Late.remote(gate)
    ray.get(gate.someone_waits.remote())
    ref = a.tensor.remote(7)
    total = late.total.remote(ref)
    ray.wait([ref])
    del ref
    ray.get(a.pid.remote())
    ray.get(gate.open.remote())
    assert ray.get(total, timeout=conftest.PATIENCE_S) == 7000
    ray.kill(late)
    ray.kill(gate)


@ray.remote(num_cpus=0)
class Gate:
    def __init__(self):
        self.event, self.waits = asyncio.Event(), asyncio.Event()

    async def open(self):
        self.event.set()

    async def passed(self):
        self.waits.set()
        await self.event.wait()

    async def someone_waits(self):
        await self.waits.wait()


def test_tensors_outlive_their_actor_and_it_has_the_transport_when_it_is_restarted(workers, objects):
    a, b = workers
    ref = a.tensor.remote(2)
    before = ray.get(a.pid.remote())
    conftest.until(lambda: any(len(row["holders"]) > 1 for row in objects()))
    ray.kill(a, no_restart=False)
    conftest.until(lambda: pid_of(a) not in (None, before))
    assert ray.get(b.total.remote(ref)) == 2000
    assert ray.get(ref).sum() == 2000
    assert ray.get(b.total.remote(a.tensor.remote(3))) == 3000
    assert ray.get(a.total.remote(b.tensor.remote(4))) == 4000


def pid_of(actor):
    try:
        return ray.get(actor.pid.remote(), timeout=10)
    except ray.exceptions.RayError:
        return None


def test_errors_are_typed_and_nobody_is_killed(workers):
    a, b = workers
    pids = ray.get([worker.pid.remote() for worker in workers])
    for wrong in (a.sparse.remote(), b.total.remote(a.sparse.remote())):
        with pytest.raises(muster.Invalid, match="sparse_coo"):
            ray.get(wrong)
    with pytest.raises(ZeroDivisionError):
        ray.get(b.total.remote(a.fails.remote()))
    with pytest.raises(muster.OutOfMemory):
        ray.get(b.total.remote(a.tensor.remote(1, conftest.MEMORY // 4)))
    assert ray.get([worker.pid.remote() for worker in workers]) == pids
    assert ray.get(b.total.remote(a.tensor.remote(1))) == 1000


def test_ops_over_results_that_hold_tensors(workers):
    a, b = workers
    mean = muster.allreduce_refs([a.tensor.remote(1), b.tensor.remote(3)], op="mean")
    assert isinstance(mean.result(30), torch.Tensor)
    assert mean.result(30).tolist() == [2] * 1000
    assert ray.get(a.text.remote(mean.ref)).startswith("<muster.Ref")
    same = a.tensor.remote(1)
    assert muster.allreduce_refs([same, same, muster.put(torch.ones(1000))]).result(30)[0] == 3
    both = muster.allreduce_refs([a.two.remote(1), b.two.remote(2)]).result(30)
    assert [tensor.tolist() for tensor in both] == [[3, 3], [2, 2, 2]]
    nested = muster.allreduce_refs([a.array.remote(1.0), b.array.remote(2.0)]).result(30)
    assert nested["w"][0] == 3
    with pytest.raises(ZeroDivisionError):
        muster.allreduce_refs([a.tensor.remote(1), b.fails.remote()]).result(30)


def test_one_tensor_and_a_list_of_tensors_are_not_copied(workers, objects):
    a, b = workers
    tensors = [a.tensor.remote(1), b.tensor.remote(1)], [a.two.remote(1), b.two.remote(1)]
    works = [muster.allreduce_refs(refs) for refs in tensors]
    for work in works:
        work.result(30)
    assert [row for row in objects() if row["maker_pid"] == os.getpid()] == []
    del tensors, works, work


def test_other_transports_are_refused():
    @ray.remote(enable_tensor_transport=True)
    class Other:
        def tensor(self):
            return torch.ones(3)

    actors = [Other.remote() for _ in range(2)]
    ray.experimental.collective.create_collective_group(actors, "gloo")
    ref = actors[0].tensor.options(tensor_transport="gloo").remote()
    with pytest.raises(muster.Invalid, match="gloo"):
        muster.allreduce_refs([ref])
    ray.experimental.collective.destroy_all_collective_groups()
    for actor in actors:
        ray.kill(actor)
