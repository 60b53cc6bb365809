"""The parts of the tree walk that Python does: rare nodes, and the arrays of other libraries."""

from __future__ import annotations

import array
import collections
import dataclasses
import enum
import functools
import inspect
import io
import numbers
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from muster._words import a, a_type_of
from muster.errors import Invalid


def bfloat16_number() -> int:
    """Returns NumPy's type number of bfloat16, or -1 without ml_dtypes."""
    try:
        import ml_dtypes
    except ImportError:
        return -1
    return int(np.dtype(ml_dtypes.bfloat16).num)


def sort_out(value: Any) -> tuple[Any, ...]:
    """Says what a value is: a class with fields, a container with items, an array of another library, or a constant."""
    kind = type(value)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return ("class", kind, kind._fields)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ("class", kind, tuple(field.name for field in dataclasses.fields(value)))
    if isinstance(value, dict):
        extra = (value.default_factory,) if isinstance(value, collections.defaultdict) else ()
        return ("items", (kind, tuple(dict.keys(value)), extra), tuple(dict.values(value)))
    if isinstance(value, (list, tuple)):
        return ("items", (kind, None, ()), tuple(value))
    if isinstance(value, np.ma.MaskedArray):
        raise Invalid("a masked array can't be stored: its mask would be lost", "return data and mask, or use filled()")
    if isinstance(value, np.ndarray):
        return ("array", np.asarray(value), "matrix" if isinstance(value, np.matrix) else "numpy", None)
    if isinstance(value, type):
        return ("constant",)  # whatever its instances can do
    if isinstance(value, (set, frozenset)):
        for item in value:
            _refuse_code(item)
    _refuse_code(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(torch, value)
    if hasattr(value, "__cuda_array_interface__"):
        raise _no_gpu(kind.__name__)
    if kind.__module__.partition(".")[0] == "pandas" and not hasattr(value, "shape"):
        raise Invalid(f"{a(kind.__name__)} of pandas can't be stored", "give a number or a str instead")
    if hasattr(value, "__dataframe__") or kind.__module__.partition(".")[0] == "pandas":
        raise Invalid(
            f"{a(kind.__name__)} can't be stored whole: its labels would be lost",
            "return its columns as a dict of arrays, or value.to_numpy()",
        )
    if kind.__module__.partition(".")[0] in ("jax", "jaxlib"):
        return ("array", np.asarray(value), "jax", None)
    if isinstance(getattr(value, "__muster_ref__", None), bool):
        return ("array", np.asarray(value), "numpy", None)
    if hasattr(value, "__dlpack__"):
        return ("array", np.from_dlpack(value), "numpy", None)
    if hasattr(value, "__array__"):
        return ("array", np.asarray(value), "numpy", None)
    _refuse_numbers(value)
    return ("constant",)


def _refuse_numbers(value: Any) -> None:
    """Refuses numbers of other types. They would be constants: ranks with equal ones would mistake one for the sum."""
    if isinstance(value, enum.Enum):
        return
    ctypes = sys.modules.get("ctypes")
    is_number = isinstance(value, numbers.Number)
    if ctypes is not None and isinstance(value, ctypes._SimpleCData):
        is_number = isinstance(value.value, numbers.Number)
    if is_number:
        raise Invalid(
            f"{a_type_of(value)} can't be stored: no op could reduce it",
            "give int(value) or float(value), or str(value) where its digits matter",
        )
    is_row = isinstance(value, (array.array, collections.deque)) or (
        ctypes is not None and isinstance(value, ctypes.Array)
    )
    if is_row and any(isinstance(item, numbers.Number) for item in value):
        raise Invalid(
            f"{a_type_of(value)} of numbers can't be stored: no op could reduce it", "make it an array: np.array(value)"
        )


def _refuse_code(value: Any) -> None:
    """Refuses functions and the like: most likely somebody forgot to call the function, or to collect the items."""
    if inspect.isroutine(value) or isinstance(value, (functools.partial, np.ufunc)):
        name = getattr(value, "__name__", type(value).__name__)
        raise Invalid(f"a function can't be stored: {name}", "did you mean to call it?")
    if isinstance(value, io.IOBase):
        raise Invalid(f"a file ({type(value).__name__}) can't be stored", "read it, and give its contents")
    if isinstance(value, Iterator):
        raise Invalid(f"an iterator ({type(value).__name__}) can't be stored", "make a list of it")
    if inspect.iscoroutine(value):
        raise Invalid(f"{a_type_of(value)} can't be stored", "await it first")


def _no_gpu(what: str) -> Invalid:
    return Invalid(
        f"{a(what)} in GPU memory can't be stored: this Muster has no GPU support",
        "move it to the host first, for instance with .cpu()",
    )


def _from_torch(torch: Any, tensor: Any) -> tuple[Any, ...]:
    if tensor.device.type != "cpu":
        raise _no_gpu(f"tensor on {tensor.device}")
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.layout is not torch.strided:
        raise Invalid(f"a tensor of layout {tensor.layout} can't be stored", "make it dense first: tensor.to_dense()")
    if tensor.dtype is torch.bfloat16:
        return ("array", tensor.view(torch.int16).numpy(), "torch", "bfloat16")
    return ("array", tensor.numpy(), "torch", None)


def from_numpy(array: np.ndarray[Any, Any], kind: str, dtype: str) -> Any:
    """Turns a writable array of ours into the library's kind that the leaf had: torch or JAX."""
    if kind == "torch":
        import torch

        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
    if kind == "jax":
        import jax.numpy

        return jax.numpy.asarray(array)
    return array
