"""A rank of Muster's Python client. The clock runs from before the seal of its input until the result can be read."""

import muster
import numpy as np
from protocol import PAGE, fill, is_sum, obey

group = muster.group("bench-python")
own: dict[int, np.ndarray] = {}


def run_round(op, variant, count, seed, clock) -> bool:
    values = muster.empty(count, np.float32)
    fill(values, group.rank, seed)
    out = own.setdefault(count, np.empty(count, np.float32)) if variant == "out" else None
    group.barrier().result()
    clock.begin()
    ref = muster.seal(values)
    result = group.allreduce(ref, out=out).result()
    if variant == "first_read":
        result[::PAGE].sum()
    clock.end()
    return ref.copies == 0 and is_sum(result, group.world_size, seed)


obey("muster-python", group.rank, run_round)
