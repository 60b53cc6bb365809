"""A rank of Muster's Python client.

Inputs are sealed before the clock runs, except in the variants ``seal`` (sealed while it runs) and ``produce`` (made by
a decorated function while it runs). The op ``call`` measures a decorated function that returns ``count`` arrays; its
variant ``undecorated`` measures the same function without the decorator.
"""

import os

import muster
import numpy as np
from protocol import PAGE, fill, is_filled, is_sum, obey


class MusterRank:
    def __init__(self) -> None:
        self.group = muster.group("bench-python")
        self.own: dict[int, np.ndarray] = {}
        self.ref = self.values = self.result = None
        self.planted = bool(os.environ.get("BENCH_PLANT")) and self.group.rank == 0

    def barrier(self) -> None:
        self.group.barrier().result()

    def prepare(self, op: str, variant: str, count: int, seed: int) -> None:
        self.result = self.ref = self.values = None
        self.count, self.seed = count, seed
        if op == "call" or variant == "produce":
            return
        if op in ("put", "get"):
            self.values = self.own.setdefault(count, np.empty(count, np.float32))
            fill(self.values, self.group.rank, seed)
            if op == "get":
                self.ref = muster.put(self.values)
            return
        self.values = muster.empty(count, np.float32)
        fill(self.values, self.group.rank, seed)
        if self.planted:
            self.values[-1] += 1
        if variant != "seal":
            self.ref, self.values = muster.seal(self.values), None

    def run(self, op: str, variant: str) -> None:
        if op == "call":
            self.result = (plain_call if variant == "undecorated" else decorated_call)(self.count)
        elif op == "put":
            self.ref = muster.put(self.values)
        elif op == "get":
            self.result = self.ref.get()
        else:
            self.reduce(variant)

    def reduce(self, variant: str) -> None:
        if variant == "seal":
            self.ref = muster.seal(self.values)
        elif variant == "produce":
            self.ref = produce(self.count, self.group.rank, self.seed)
        out = self.own.setdefault(self.count, np.empty(self.count, np.float32)) if variant == "out" else None
        self.result = self.group.allreduce(self.ref, out=out).result()
        if variant in ("first_read", "produce"):
            self.result[::PAGE].sum()

    def check(self, op: str, variant: str, seed: int) -> bool:
        if op == "call":
            returned = self.result if variant == "undecorated" else self.result.get()
            return len(returned) == self.count and all(array[0] == i for i, array in enumerate(returned))
        if op in ("put", "get"):
            return is_filled(self.ref.get(), self.group.rank, seed)
        return self.ref.copies == 0 and is_sum(self.result, self.group.world_size, seed)


@muster.collective_input
def produce(count: int, rank: int, seed: int) -> np.ndarray:
    values = np.empty(count, np.float32)
    fill(values, rank, seed)
    return values


def plain_call(count: int) -> list[np.ndarray]:
    return [np.full(256, i, np.float32) for i in range(count)]


decorated_call = muster.collective_input(plain_call)

rank = MusterRank()
obey("muster-python", rank.group.rank, rank)
