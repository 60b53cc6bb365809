"""``muster.ray.collective``, and Muster as a backend of ``ray.util.collective``: the same calls, the same results."""

from __future__ import annotations

import muster
import muster.ray.collective
import numpy as np
import pytest
import ray
import ray.util.collective

pytestmark = pytest.mark.usefixtures("cluster")
RANKS = 4


@ray.remote(num_cpus=0.5)
class Rank:
    """Uses one of the two modules, which have the same names."""

    def __init__(self, module):
        self.col = muster.ray.collective if module == "muster" else ray.util.collective

    def join(self, rank, name, world_size=RANKS, backend="muster"):
        self.col.init_collective_group(world_size, rank, backend, name)
        return self.col.get_rank(name), self.col.get_collective_group_size(name), self.col.is_group_initialized(name)

    def leave(self, name):
        self.col.destroy_collective_group(name)
        return self.col.get_rank(name), self.col.is_group_initialized(name)

    def run(self, function, *arguments):
        return function(self.col, *arguments)


@pytest.fixture(scope="module", params=["muster", "ray"])
def ranks(request, cluster):
    ranks = [Rank.remote(request.param) for _ in range(RANKS)]
    yield ranks
    for rank in ranks:
        ray.kill(rank)


@pytest.fixture
def group(ranks, request):
    name = request.node.name
    assert ray.get([rank.join.remote(i, name) for i, rank in enumerate(ranks)]) == [
        (i, RANKS, True) for i in range(RANKS)
    ]
    return name


def on_all(ranks, function, *arguments):
    return ray.get([rank.run.remote(function, *arguments) for rank in ranks])


def array_of(kind, rank, size=5):
    if kind == "torch":
        import torch

        return torch.full((size,), float(rank + 1))
    return np.full(size, rank + 1.0, np.float32)


def everything(col, name, kind):
    rank = col.get_rank(name)
    reduced = {}
    for op in ("SUM", "PRODUCT", "MIN", "MAX"):
        tensor = array_of(kind, rank)
        assert col.allreduce(tensor, name, ray.util.collective.types.ReduceOp[op]) is None
        reduced[op] = tensor[0].item()
    at_root = array_of(kind, rank)
    col.reduce(at_root, 2, name)
    sent = array_of(kind, rank)
    col.broadcast(sent, 1, name)
    gathered = [array_of(kind, -1) for _ in range(RANKS)]
    col.allgather(gathered, array_of(kind, rank), name)
    parts = [array_of(kind, 10 * rank + i) for i in range(RANKS)]
    part = array_of(kind, -1)
    col.reducescatter(part, parts, name)
    col.barrier(name)
    moved = array_of(kind, rank)
    if rank == 0:
        col.send(moved, 3, name)
    if rank == 3:
        col.recv(moved, 0, name)
    return (
        reduced,
        at_root[0].item(),
        sent[0].item(),
        [t[0].item() for t in gathered],
        (part[0].item(), [t[0].item() for t in parts]),
        moved[0].item(),
    )


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_all_calls(ranks, group, kind):
    for rank, got in enumerate(on_all(ranks, everything, group, kind)):
        reduced, at_root, sent, gathered, (part, parts), moved = got
        assert reduced == {"SUM": 10, "PRODUCT": 24, "MIN": 1, "MAX": 4}
        assert at_root == (10 if rank == 2 else rank + 1)
        assert sent == 2
        assert gathered == [1, 2, 3, 4]
        assert part == sum(10 * r + rank + 1 for r in range(RANKS))
        assert parts == [10 * rank + i + 1 for i in range(RANKS)]  # inputs stay as they are
        assert moved == (1 if rank == 3 else rank + 1)


def test_a_group_can_be_left_and_made_anew(ranks, group):
    assert ray.get([rank.leave.remote(group) for rank in ranks]) == [(-1, False)] * RANKS
    order = [3, 1, 0, 2]
    ray.get([rank.join.remote(i, group) for rank, i in zip(ranks, order)])
    assert [got[0] for got in on_all(ranks, everything, group, "numpy")] == [
        {"SUM": 10, "PRODUCT": 24, "MIN": 1, "MAX": 4}
    ] * RANKS


def test_a_group_declared_by_the_driver(ranks, request):
    name = request.node.name
    muster.ray.collective.create_collective_group(ranks, RANKS, [3, 2, 1, 0], group_name=name, gloo_timeout=50000)

    def run(col, name):
        tensor = np.ones(3)
        col.allreduce(tensor, name)
        return col.get_rank(name), tensor[0].item(), col.get_group_handle(name).timeout

    assert on_all(ranks, run, name) == [(3, 4, 50), (2, 4, 50), (1, 4, 50), (0, 4, 50)]
    with pytest.raises(RuntimeError, match="twice"):
        muster.ray.collective.create_collective_group(ranks, RANKS, [3, 2, 1, 0], group_name=name)
    ray.get([rank.leave.remote(name) for rank in ranks])


def test_works_and_timeouts():
    ranks = [Rank.remote("muster") for _ in range(2)]
    ray.get([rank.join.remote(i, "works", 2) for i, rank in enumerate(ranks)])

    def start(col, name):
        tensor = np.ones(3)
        work = col.allreduce(tensor, name, async_op=True)
        return work.result(30)[0].item(), tensor[0].item()

    assert on_all(ranks, start, "works") == [(2, 2)] * 2

    def send_alone(col, name):
        with pytest.raises(muster.Timeout) as raised:
            col.send(np.ones(3), 1, name, timeout=0.3)
        return raised.value.ranks

    assert ray.get(ranks[0].run.remote(send_alone, "works")) == [1]

    def disagree(col, name):
        with pytest.raises(muster.Mismatch, match="dtype"):
            col.allreduce(np.ones(3, np.float32 if col.get_rank(name) else np.float64), name)

    on_all(ranks, disagree, "works")

    def wait(col, name):
        with pytest.raises(muster.PeerLost, match=r"destroy_collective_group\(\)") as raised:
            col.barrier(name)
        return raised.value.ranks

    waits = ranks[0].run.remote(wait, "works")
    ray.kill(ranks[1])
    assert ray.get(waits) == [1]
    ray.kill(ranks[0])


def test_misuse():
    rank = Rank.remote("muster")
    ray.get(rank.join.remote(0, "misuse", 2))

    def run(col, name):
        said = []
        for call in (
            lambda: col.init_collective_group(2, 0, "muster", name),
            lambda: col.init_collective_group(2, 0, "muster", "timeout", gloo_timeout="soon"),
            lambda: col.allreduce(np.ones(3), "another"),
            lambda: col.allreduce([1, 2], name),
            lambda: col.allgather([np.ones(1)], np.ones(1), name),
            lambda: col.reduce(np.ones(1), 7, name),
            lambda: col.send(np.ones(1), 0, name),
            lambda: col.allreduce_multigpu([np.ones(1), np.ones(1)], name),
        ):
            try:
                call()
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
        return said

    said = ray.get(rank.run.remote(run, "misuse"))
    assert [line.partition(":")[0] for line in said] == [
        *("RuntimeError", "Invalid", "RuntimeError", "RuntimeError", "RuntimeError"),
        *("ValueError", "RuntimeError", "Invalid"),
    ]
    for line, words in zip(
        said,
        (
            "second time",
            "gloo_timeout='soon'",
            "not initialized",
            "Unrecognized",
            "length",
            "world size '2'",
            "is self",
            "one array, not 2",
        ),
    ):
        assert words in line
    with pytest.raises(RuntimeError, match="inside a Ray actor or task"):
        muster.ray.collective.get_rank("misuse")
    ray.kill(rank)


def test_ranks_that_disagree_and_tensors_of_other_devices():
    ranks = [Rank.remote("muster") for _ in range(2)]
    ray.get([rank.join.remote(i, "disagree", 2) for i, rank in enumerate(ranks)])

    def run(col, name):
        import torch

        own = col.get_rank(name)
        said = []
        for tensor in (
            np.ones(2 + own),
            np.ones(2, [np.float32, np.float64][own]),
            torch.ones(2, dtype=[torch.float32, torch.int64][own]),
            torch.ones(2, device=["cpu", "meta"][own]),
            torch.ones(2, device="meta"),
            [np.ones(2), torch.ones(2, dtype=torch.float64)][own],  # both are on the host
        ):
            try:
                col.allreduce(tensor, name)
                said.append(f"{type(tensor).__name__} {float(tensor[0])}")
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
        return said

    told = ray.get([rank.run.remote(run, "disagree") for rank in ranks], timeout=60)
    for own, said in enumerate(told):
        for line, words in zip(said, ("(3,) on rank 1", "float64 on rank 1", "int64 on rank 1")):
            assert line.startswith("Mismatch: ranks disagree on allreduce")
            assert words in line
        assert "rank 1 has no input for it: " in said[3] or own == 1
        assert "a tensor on meta can't be stored" in said[3]
        assert said[4].startswith("Invalid: a tensor on meta can't be stored (hint: move it to the host first")
        assert said[5] == ["ndarray 2.0", "Tensor 2.0"][own]
    for rank in ranks:
        ray.kill(rank)


def test_it_has_every_name_of_ray_s():
    assert set(ray.util.collective.__all__) <= set(muster.ray.collective.__all__)
