"""Results of Ray's tasks in Muster's store, as ``ray_rank.py`` has them in Ray's. One process directs all.

The op ``allreduce`` takes the time from the first array to the last actor that has read the result. The op ``task`` is
one task with a small result, from its call to its value here; its variant ``undecorated`` is a task without the mark.
"""

import os

import muster
import muster.ray
import numpy as np
import ray

RANKS = int(os.environ["BENCH_RANKS"])
PAGE = 1024
SMALL = 256


@ray.remote(num_cpus=0)
class Actor:
    @muster.collective_input
    def produce(self, count: int, rank: int, seed: int) -> np.ndarray:
        values = np.empty(count, np.float32)
        fill(values, rank, seed)
        return values

    def read(self, result: muster.Ref) -> tuple[float, float]:
        values = result.get()
        return float(values[::PAGE].sum()), float(values[1])


def fill(values: np.ndarray, rank: int, seed: int) -> None:
    """As in protocol.py, which the actors do not have."""
    values[...] = (rank + 1) * (seed % 5 + 1)
    pages = values[::PAGE]
    pages += (np.arange(len(pages)) % 16).astype(np.float32)


def small(seed: int) -> np.ndarray:
    return np.full(SMALL, seed, np.float32)


marked = ray.remote(num_cpus=1)(muster.collective_input(small))
plain = ray.remote(num_cpus=1)(small)


class TasksRank:
    def __init__(self) -> None:
        os.environ.pop("MUSTER_SOCKET", None)
        muster.ray.init("local", memory="2GiB", num_cpus=RANKS, include_dashboard=False, log_to_driver=False)
        self.actors = [Actor.remote() for _ in range(RANKS)]
        self.result = None

    def barrier(self) -> None:
        pass

    def prepare(self, op: str, variant: str, count: int, seed: int) -> None:
        self.count, self.seed, self.result = count, seed, None

    def run(self, op: str, variant: str) -> None:
        if op == "task":
            self.result = muster.ray.get((plain if variant == "undecorated" else marked).remote(self.seed))
            return
        parts = [actor.produce.remote(self.count, rank, self.seed) for rank, actor in enumerate(self.actors)]
        total = muster.allreduce_refs(parts).ref
        self.result = ray.get([actor.read.remote(total) for actor in self.actors])

    def check(self, op: str, variant: str, seed: int) -> bool:
        if op == "task":
            return bool((self.result == seed).all() and len(self.result) == SMALL)
        return all(read == read_of_sum(self.count, RANKS, seed) for read in self.result)


if __name__ == "__main__":
    from protocol import obey, read_of_sum

    obey("muster_tasks", 0, TasksRank())
    muster.ray.shutdown()
