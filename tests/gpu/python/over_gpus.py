"""A plugin of pytest by which tests that know only memory of the host run over GPUs.

What a rank gives to an op goes to the rank's GPU first, and what is put goes to the first GPU. Results come back as
NumPy arrays. MUSTER_TEST_GPUS says over how many GPUs the ranks are spread.
"""

from __future__ import annotations

import functools
import inspect
import os
from typing import Any

import muster
import numpy as np
import pytest

GPUS = int(os.environ["MUSTER_TEST_GPUS"])
#: Tests of what only memory of the host has, and why.
OF_THE_HOST = {
    "test_an_array_of_a_ref_is_copied_only_where_it_may_be": "NumPy reads a ref",
    "test_a_ref_is_an_array_to_numpy": "NumPy reads a ref",
    "test_arrays_in_subclasses_are_reduced": "a matrix of NumPy is an array on a GPU",
    "test_parts_of_a_list_keep_what_they_were": "a matrix of NumPy is an array on a GPU",
    "test_a_matrix_stays_one": "a matrix of NumPy is an array on a GPU",
}
#: Tests of what one GPU promises, and several do not: bits of a fold in the order of ranks.
OF_ONE_GPU = ("test_bits_are_the_same_on_every_rank",)
REDUCTIONS = ("allreduce", "reduce", "reduce_scatter", "scan")
OPS = (*REDUCTIONS, "broadcast", "allgather", "gather", "scatter", "all_to_all", "send")
_put = muster.put


def on_gpu(value: Any, gpu: int) -> Any:
    """Returns the value as a ref of arrays on a GPU; as it is if it can't be put: the op says why."""
    if value is None or isinstance(value, muster.Ref):
        return value
    try:
        return _put(value, device=f"cuda:{gpu}")
    except (muster.Error, TypeError):
        return value


def gpu_of(rank: int, op: str, value: Any, of_reduction: Any) -> int:
    """Returns the rank's GPU; the first if several GPUs round otherwise than the tests, which know one fold.

    That is so for products of half types: they overflow at other points, and are rounded once on each GPU.
    """
    halves = [dtype for dtype in dtypes_of(value) if dtype.itemsize == 2 and dtype.kind not in "iu"]
    return 0 if halves and op in REDUCTIONS and of_reduction == "prod" else rank % GPUS


def dtypes_of(value: Any) -> list[np.dtype[Any]]:
    if isinstance(value, dict):
        return dtypes_of(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [dtype for item in value for dtype in dtypes_of(item)]
    return [value.dtype] if hasattr(value, "dtype") else []


def on_host(value: Any) -> Any:
    """Returns a result as the same program would get it without GPUs."""
    if isinstance(value, muster.DeviceArray):
        array = value.to_host()
        array.flags.writeable = False
        return array
    if isinstance(value, list):
        value[:] = [on_host(item) for item in value]
    elif type(value) is tuple:
        return tuple(on_host(item) for item in value)
    elif isinstance(value, dict):
        value.update({key: on_host(item) for key, item in value.items()})
    return value


def _over_gpus(op: Any) -> Any:
    signature = inspect.signature(op)

    @functools.wraps(op)
    def call(self: muster.Group, x: Any = None, *arguments: Any, **named: Any) -> muster.Work:
        bound = signature.bind(self, x, *arguments, **named)
        bound.apply_defaults()
        gpu = gpu_of(self.rank, op.__name__, x, bound.arguments.get("op"))
        return op(self, on_gpu(x, gpu), *arguments, **named)

    return call


def _as_host(method: Any) -> Any:
    return functools.wraps(method)(lambda self, *arguments, **named: on_host(method(self, *arguments, **named)))


for _name in OPS:
    setattr(muster.Group, _name, _over_gpus(getattr(muster.Group, _name)))
muster.Work.result = _as_host(muster.Work.result)
muster.Ref.get = _as_host(muster.Ref.get)
muster.put = functools.partial(_put, device="cuda:0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [*OF_THE_HOST, *(OF_ONE_GPU if GPUS > 1 else ())]
    out = [item for item in items if getattr(item, "originalname", item.name) in left_out]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
