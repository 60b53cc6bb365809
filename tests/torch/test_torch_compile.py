"""``torch.compile`` around calls of the backend: they are called as they are, as those of backends in C++."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import worlds
from torch.nn.parallel import DistributedDataParallel


def compiled(function):
    return torch.compile(function, backend="aot_eager")


def train(rank, ranks):
    torch.manual_seed(0)
    model = compiled(DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))))
    for _ in range(2):
        model(torch.full((2, 4), rank + 1.0)).sum().backward()
    return [parameter.grad.tolist() for parameter in model.parameters()]


def call(rank, ranks):
    @compiled
    def reduce(tensor):
        work = dist.all_reduce(tensor, async_op=True)
        work.wait()
        dist.barrier()
        dist.broadcast(tensor, 0)
        gathered = [torch.zeros(2) for _ in range(ranks)]
        dist.all_gather(gathered, tensor + rank)
        return tensor * 2 + sum(gathered)

    return [reduce(torch.ones(2)).tolist() for _ in range(2)]


@pytest.mark.parametrize("function", [train, call])
def test_it_compiles_as_over_gloo(shared_daemon, function):
    over_gloo = worlds.run(shared_daemon, function, 2, backend="gloo")
    assert worlds.run(shared_daemon, function, 2) == over_gloo
