"""Collectives of ``ray.experimental.collective``: groups of actors that the driver makes, and Compiled Graphs."""

from __future__ import annotations

import muster
import muster.ray
import pytest
import ray
import torch
from ray.dag import InputNode, MultiOutputNode
from ray.experimental import collective
from ray.experimental.channel.accelerator_context import AcceleratorContext
from ray.experimental.util.types import ReduceOp

pytestmark = pytest.mark.usefixtures("cluster")
RANKS = 3
PATIENCE_S = 60


@ray.remote(num_cpus=0.5)
class Worker:
    def __init__(self, rank):
        self.rank = rank

    def make(self, value):
        return torch.arange(6.0).reshape(6, 1) + value + self.rank

    def wrong(self, value):
        return torch.ones(self.rank + 1)

    def told(self, tensor):
        return tensor.flatten().tolist()

    def reduce(self, name):
        tensor = torch.ones(3) * (self.rank + 1)
        collective.allreduce(tensor, group_name=name)
        return tensor.tolist()


@pytest.fixture(scope="module")
def workers(cluster):
    made = [Worker.remote(rank) for rank in range(RANKS)]
    yield made
    for worker in made:
        ray.kill(worker)


def test_a_group_that_the_driver_makes(workers):
    group = collective.create_collective_group(workers, backend="muster")
    assert group.backend == "MUSTER"
    assert [found.name for found in collective.get_collective_groups(workers[:2], "muster")] == [group.name]
    assert ray.get([worker.reduce.remote(group.name) for worker in workers]) == [[6, 6, 6]] * RANKS
    collective.destroy_collective_group(group)
    again = collective.create_collective_group(workers, backend="muster", name="again")
    assert ray.get([worker.reduce.remote("again") for worker in workers]) == [[6, 6, 6]] * RANKS
    collective.destroy_collective_group(again)


def graph_of(workers, bind, make="make"):
    with InputNode() as value:
        made = [getattr(worker, make).bind(value) for worker in workers]
        done = bind(made, muster.ray.Communicator(workers, timeout=20))
        graph = MultiOutputNode([worker.told.bind(tensor) for worker, tensor in zip(workers, done)])
    return graph.experimental_compile()


@pytest.mark.parametrize(
    ("op", "expected"),
    [(ReduceOp.PRODUCT, 6.0), (ReduceOp.MAX, 3.0), (ReduceOp.AVG, 2.0)],
)
def test_allreduce_in_a_graph(workers, op, expected):
    graph = graph_of(workers, lambda made, with_: collective.allreduce.bind(made, op, transport=with_))
    for _ in range(3):
        told = ray.get(graph.execute(1), timeout=PATIENCE_S)
        assert told[0] == told[1] == told[2]
        assert told[0][0] == expected
    graph.teardown()


def test_the_other_collectives_of_a_graph(workers):
    graph = graph_of(workers, lambda made, with_: collective.allgather.bind(made, transport=with_))
    told = ray.get(graph.execute(0), timeout=PATIENCE_S)
    assert told == [[float(i + rank) for rank in range(RANKS) for i in range(6)]] * RANKS
    graph.teardown()
    graph = graph_of(workers, lambda made, with_: collective.reducescatter.bind(made, transport=with_))
    told = ray.get(graph.execute(0), timeout=PATIENCE_S)
    assert told == [[3.0 * i + 3 for i in (2 * rank, 2 * rank + 1)] for rank in range(RANKS)]
    graph.teardown()


def test_ranks_of_a_graph_that_disagree_get_an_error(workers):
    graph = graph_of(workers, lambda made, with_: collective.allreduce.bind(made, transport=with_), "wrong")
    with pytest.raises(muster.Mismatch):
        ray.get(graph.execute(0), timeout=PATIENCE_S)
    graph.teardown()


def test_what_a_graph_can_t_have_is_refused(workers):
    with pytest.raises(muster.Invalid, match="different actors"):
        muster.ray.Communicator([workers[0], workers[0]])
    with pytest.raises(muster.Invalid, match="transport=muster"):
        AcceleratorContext("cpu", muster.ray.Communicator).create_communicator(2, "id", 0, workers, None, False)
    with pytest.raises(muster.Invalid, match="with_tensor_transport"):
        muster.ray.Communicator(workers).send(torch.ones(3), 1)
