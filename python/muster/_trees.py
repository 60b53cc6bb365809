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
import operator
import reprlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from muster import _muster
from muster._words import a, a_type_of
from muster.errors import Invalid

_HOST_MEMORY = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost


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
        return ("array", _on_gpu(value, value.__cuda_array_interface__), _library_of(kind), None)
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
        if value.__dlpack_device__()[0] not in _HOST_MEMORY:
            raise Invalid(
                f"{a_type_of(value)} is not in memory of the host, and has no __cuda_array_interface__",
                "give it as an array of a library that has one",
            )
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


def _library_of(kind: type) -> str:
    """Returns the kind of the leaf that an array of this class makes."""
    library = kind.__module__.partition(".")[0]
    return {"cupy": "cupy", "jax": "jax", "jaxlib": "jax"}.get(library, "numpy")


def _on_gpu(value: Any, interface: dict[str, Any]) -> _muster.DeviceArray:
    """Returns a dense array in memory of a GPU as Muster's own type, without a copy.

    ``interface`` is its ``__cuda_array_interface__``, versions 2 and 3. Work of any stream that writes the array is
    waited for before it is read.
    """
    shape, typestr, _ = _checked(value, interface)
    if interface.get("mask") is not None:
        raise Invalid("a masked array can't be stored: its mask would be lost", "return data and mask")
    known, strides = np.dtype(typestr), interface.get("strides")
    if strides is not None and tuple(strides) != _dense_strides(shape, known.itemsize):
        value = _dense(value)
        interface = value.__cuda_array_interface__
    shape, _, address = _checked(value, interface)
    if known.byteorder not in "=|" and known != known.newbyteorder("="):
        raise Invalid(f"{a_type_of(value)} has another byte order", "make it one of this machine's byte order")
    return _muster.other_array(address, shape, known.name, value)


def _checked(value: Any, interface: Any) -> tuple[tuple[int, ...], str, int]:
    """Returns shape, typestr and address of a ``__cuda_array_interface__``."""
    try:
        shape = tuple(operator.index(size) for size in interface["shape"])
        typestr, address = interface["typestr"], operator.index(interface["data"][0])
        np.dtype(typestr)
        if isinstance(typestr, str) and 0 <= address < 2**64 and all(0 <= size < 2**63 for size in shape):
            return shape, typestr, address
    except (TypeError, KeyError, IndexError, ValueError):
        pass
    raise Invalid(
        f"the __cuda_array_interface__ of {a_type_of(value)} makes no sense: {reprlib.repr(interface)}",
        "it has a shape, a typestr, and data with an address",
    )


def device_array_of(value: Any) -> Any:
    """Returns another library's array in memory of a GPU as Muster's own type; any other value as it is."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(torch, value)[1] if value.device.type == "cuda" else value
    if isinstance(value, _muster.DeviceArray) or not hasattr(value, "__cuda_array_interface__"):
        return value
    return _on_gpu(value, value.__cuda_array_interface__)


def _dense_strides(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    """Returns the strides in bytes of a dense array in C order."""
    strides = []
    for size in reversed(shape):
        strides.append(item_bytes)
        item_bytes *= max(size, 1)
    return tuple(reversed(strides))


def _dense(value: Any) -> Any:
    """Returns an array of the same library with the same elements in C order: one copy."""
    for method in ("contiguous", "copy"):
        if callable(make := getattr(value, method, None)):
            made = make()
            if made.__cuda_array_interface__.get("strides") is None:
                return made
    raise Invalid(f"{a_type_of(value)} has elements that are not in C order", "make a dense copy of it first")


def _from_torch(torch: Any, given: Any) -> tuple[Any, ...]:
    tensor = given.detach().resolve_conj().resolve_neg()
    if tensor.layout is not torch.strided:
        raise Invalid(f"a tensor of layout {tensor.layout} can't be stored", "make it dense first: tensor.to_dense()")
    if tensor.device.type == "cuda":
        tensor = tensor.contiguous()
        address, dtype = tensor.data_ptr(), str(tensor.dtype).removeprefix("torch.")
        owner = given if address == given.data_ptr() else tensor
        return ("array", _muster.other_array(address, tuple(tensor.shape), dtype, owner), "torch", None)
    if tensor.device.type != "cpu":
        raise Invalid(f"a tensor on {tensor.device} can't be stored", "move it to the host first: tensor.cpu()")
    if tensor.dtype is torch.bfloat16:
        return ("array", tensor.view(torch.int16).numpy(), "torch", "bfloat16")
    return ("array", tensor.numpy(), "torch", None)


def from_gpu(array: _muster.DeviceArray, kind: str) -> Any:
    """Turns an array in memory of a GPU into the library's kind that the leaf had, without a copy.

    Where this process has no such library, or one that knows no GPU, returns Muster's own type.
    """
    try:
        if kind == "torch":
            import torch

            return torch.from_dlpack(array) if torch.cuda.is_available() else array
        if kind == "cupy":
            import cupy

            return cupy.from_dlpack(array) if cupy.cuda.is_available() else array
        if kind == "jax":
            import jax

            return jax.dlpack.from_dlpack(array) if jax.default_backend() == "gpu" else array
    except ImportError:
        pass
    return array


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
