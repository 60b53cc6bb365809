"""A rank of torch.distributed over Gloo, with the calls that users make."""

import os

import torch
import torch.distributed as dist
from protocol import fill, is_filled, is_sum, obey


class GlooRank:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=os.environ["BENCH_RENDEZVOUS"])
        self.number, self.ranks = dist.get_rank(), dist.get_world_size()
        self.tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def barrier(self) -> None:
        dist.barrier()

    def prepare(self, op: str, variant: str, count: int, seed: int) -> None:
        self.tensor, self.result = self.tensors.setdefault(count, (torch.empty(count), torch.empty(count)))
        if op == "allreduce":
            fill(self.tensor.numpy(), self.number, seed)
            return
        for to, part in enumerate(self.tensor.chunk(self.ranks)):
            fill(part.numpy(), self.number, seed + to)

    def run(self, op: str, variant: str) -> None:
        if op == "allreduce":
            dist.all_reduce(self.tensor)  # in place
        elif op == "reduce_scatter":
            dist.reduce_scatter_tensor(self.result[: len(self.tensor) // self.ranks], self.tensor)
        else:
            dist.all_to_all_single(self.result, self.tensor)

    def check(self, op: str, variant: str, seed: int) -> bool:
        own_part = seed + self.number
        if op == "allreduce":
            return is_sum(self.tensor.numpy(), self.ranks, seed)
        if op == "reduce_scatter":
            return is_sum(self.result[: len(self.tensor) // self.ranks].numpy(), self.ranks, own_part)
        return all(
            is_filled(part.numpy(), source, own_part) for source, part in enumerate(self.result.chunk(self.ranks))
        )


rank = GlooRank()
obey("gloo", rank.number, rank)
dist.destroy_process_group()
