"""Ray's object store as the peer: actors make arrays, one reduces them, all read the result. One process directs them.

The op ``allreduce`` takes the time from the first array to the last actor that has read the result; ``put`` and ``get``
are for one array.
"""

import os

import numpy as np
import ray
from protocol import PAGE, fill, is_filled, obey, read_of_sum

RANKS = int(os.environ["BENCH_RANKS"])


@ray.remote(num_cpus=0)
class Actor:
    def produce(self, count: int, rank: int, seed: int) -> np.ndarray:
        values = np.empty(count, np.float32)
        fill(values, rank, seed)
        return values

    def reduce(self, *arrays: np.ndarray) -> np.ndarray:
        result = arrays[0] + arrays[1]
        for array in arrays[2:]:
            result += array
        return result

    def read(self, result: np.ndarray) -> tuple[float, float]:
        return float(result[::PAGE].sum()), float(result[1])


class RayRank:
    def __init__(self) -> None:
        ray.init("local", num_cpus=RANKS, object_store_memory=4 << 30, include_dashboard=False, log_to_driver=False)
        self.actors = [Actor.remote() for _ in range(RANKS)]
        self.own: dict[int, np.ndarray] = {}

    def barrier(self) -> None:
        pass

    def prepare(self, op: str, variant: str, count: int, seed: int) -> None:
        self.count, self.seed, self.result = count, seed, None
        if op in ("put", "get"):
            self.values = self.own.setdefault(count, np.empty(count, np.float32))
            fill(self.values, 0, seed)
        if op == "get":
            self.ref = ray.put(self.values)

    def run(self, op: str, variant: str) -> None:
        if op == "put":
            self.ref = ray.put(self.values)
        elif op == "get":
            self.result = ray.get(self.ref)
        else:
            parts = [actor.produce.remote(self.count, rank, self.seed) for rank, actor in enumerate(self.actors)]
            result = self.actors[0].reduce.remote(*parts)
            self.result = ray.get([actor.read.remote(result) for actor in self.actors])

    def check(self, op: str, variant: str, seed: int) -> bool:
        if op in ("put", "get"):
            return is_filled(ray.get(self.ref), 0, seed)
        return all(read == read_of_sum(self.count, RANKS, seed) for read in self.result)


obey("ray_store", 0, RayRank())
