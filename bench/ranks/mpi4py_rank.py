"""A rank of mpi4py, with its fast calls over buffers."""

import numpy as np
from mpi4py import MPI
from protocol import fill, is_sum, obey

world = MPI.COMM_WORLD
buffers: dict[int, tuple[np.ndarray, np.ndarray]] = {}


def run_round(op, variant, count, seed, clock) -> bool:
    values, result = buffers.setdefault(count, (np.empty(count, np.float32), np.empty(count, np.float32)))
    fill(values, world.rank, seed)
    world.Barrier()
    clock.begin()
    world.Allreduce(values, result)
    clock.end()
    return is_sum(result, world.size, seed)


obey("mpi4py", world.rank, run_round)
