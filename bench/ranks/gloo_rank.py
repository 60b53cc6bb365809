"""A rank of torch.distributed over Gloo, in place, as its users call it."""

import os

import torch
import torch.distributed as dist
from protocol import fill, is_sum, obey

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=os.environ["BENCH_RENDEZVOUS"])
rank, ranks = dist.get_rank(), dist.get_world_size()
tensors: dict[int, torch.Tensor] = {}


def run_round(op, variant, count, seed, clock) -> bool:
    tensor = tensors.setdefault(count, torch.empty(count))
    fill(tensor.numpy(), rank, seed)
    dist.barrier()
    clock.begin()
    dist.all_reduce(tensor)
    clock.end()
    return is_sum(tensor.numpy(), ranks, seed)


obey("gloo", rank, run_round)
dist.destroy_process_group()
