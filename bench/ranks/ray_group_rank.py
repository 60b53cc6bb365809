"""Groups of Ray's actors: ``ray.util.collective`` over Gloo, or ``muster.ray.collective``, which has the same calls.

Each actor is a rank and obeys the coordinator itself, so no call of Ray is in the figures. The op works in place: what
Muster needs to copy its result into the actor's array is in its figure. In the variant ``refs`` the input is in the
store, and the result is a view of it.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import ray

RANKS = int(os.environ["BENCH_RANKS"])
PASSED_ON = ("BENCH_SOCKET", "BENCH_RANKS", "PYTHONPATH", "OMP_NUM_THREADS")


@ray.remote(num_cpus=0)
class Actor:
    def obey(self, system: str, number: int) -> None:
        sys.path.insert(0, os.environ["BENCH_FOLDER"])
        import protocol

        collective = collective_of(system)
        collective.init_collective_group(RANKS, number, "gloo", "bench")
        protocol.obey(system, number, make_rank(collective, number, protocol))


def collective_of(system: str) -> ModuleType:
    return importlib.import_module("muster.ray.collective" if system == "muster_ray" else "ray.util.collective")


def make_rank(collective: ModuleType, number: int, protocol: ModuleType) -> Any:
    """Makes the class here, as this module is the main one, and actors get what is in it by value."""

    class GroupRank:
        def __init__(self) -> None:
            self.own: dict[int, np.ndarray] = {}
            self.ref = self.result = None

        def barrier(self) -> None:
            collective.barrier("bench")

        def prepare(self, op: str, variant: str, count: int, seed: int) -> None:
            self.ref = self.result = None
            if variant == "refs":
                import muster

                values = muster.empty(count, np.float32)
                protocol.fill(values, number, seed)
                self.ref = muster.seal(values)
            else:
                self.result = self.own.setdefault(count, np.empty(count, np.float32))
                protocol.fill(self.result, number, seed)

        def run(self, op: str, variant: str) -> None:
            if variant == "refs":
                self.result = collective.get_group_handle("bench").group.allreduce(self.ref).result()
            else:
                collective.allreduce(self.result, "bench")

        def check(self, op: str, variant: str, seed: int) -> bool:
            return protocol.is_sum(self.result, RANKS, seed)

    return GroupRank()


if __name__ == "__main__":
    system = sys.argv[1]
    here = str(Path(__file__).resolve().parent)
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    options = {
        "num_cpus": RANKS,
        "object_store_memory": 1 << 30,
        "include_dashboard": False,
        "log_to_driver": False,
        "runtime_env": {"env_vars": {**passed_on, "BENCH_FOLDER": here}},
    }
    os.environ.pop("MUSTER_SOCKET", None)
    if system == "muster_ray":
        import muster.ray

        muster.ray.init("local", memory="2GiB", **options)
    else:
        ray.init("local", **options)
    actors = [Actor.remote() for _ in range(RANKS)]
    ray.get([actor.obey.remote(system, number) for number, actor in enumerate(actors)])
