"""Tensors as the arrays that Muster takes, and results back into tensors.

Arrays are flat: ranks have to agree on the number of elements, as with other backends, and not on the shape. A tensor
of the host goes as an array of NumPy over its memory, and one on a GPU as a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from muster import DeviceArray
from muster.errors import Invalid, Mismatch

Tensor = Any

_IN_NUMPY = {
    torch.bool: np.dtype(np.bool_),
    torch.int8: np.dtype(np.int8),
    torch.int16: np.dtype(np.int16),
    torch.int32: np.dtype(np.int32),
    torch.int64: np.dtype(np.int64),
    torch.uint8: np.dtype(np.uint8),
    torch.uint16: np.dtype(np.uint16),
    torch.uint32: np.dtype(np.uint32),
    torch.uint64: np.dtype(np.uint64),
    torch.float16: np.dtype(np.float16),
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.complex64: np.dtype(np.complex64),
    torch.complex128: np.dtype(np.complex128),
}
_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_SUM, _MEAN, _PROD, _MIN, _MAX = "sum", "mean", "prod", "min", "max"
_OPS = {
    "SUM": _SUM,
    "AVG": _MEAN,
    "PRODUCT": _PROD,
    "MIN": _MIN,
    "MAX": _MAX,
    "BAND": "band",
    "BOR": "bor",
    "BXOR": "bxor",
}
#: Ops on bool, whose results are bool in torch. Muster's own sum would be a count.
_OF_BOOL = {_SUM: "lor", _MAX: "lor", _PROD: "land", _MIN: "land"}


def check(tensor: Tensor) -> None:
    """Raises Invalid for a tensor that is not dense memory of the host or of a GPU of CUDA."""
    if not isinstance(tensor, torch.Tensor):
        raise Invalid(f"a tensor is needed, not {type(tensor).__name__}", "give a torch.Tensor")
    if tensor.is_nested:
        raise Invalid("a nested tensor is not for the backend 'muster'", "call the op for each of its tensors")
    if tensor.layout is not torch.strided:
        raise Invalid(
            f"a tensor of layout {tensor.layout} is not for the backend 'muster'", "make it dense: tensor.to_dense()"
        )
    if tensor.device.type not in ("cpu", "cuda"):
        raise Invalid(
            f"a tensor is on {tensor.device}, and the backend 'muster' works on those of the host and of CUDA",
            "move it there: tensor.cpu()",
        )
    if tensor.is_quantized:
        raise Invalid("a quantized tensor is not for the backend 'muster'", "give tensor.int_repr()")


def only(tensors: Sequence[Any]) -> Any:
    """Returns the one item of a list: other backends know lists of several, one for each device."""
    if isinstance(tensors, torch.Tensor):
        return tensors
    if len(tensors) != 1:
        raise Invalid(f"a rank has one tensor for an op, not {len(tensors)}", "call the op for each tensor")
    return tensors[0]


def moved(tensor: Tensor) -> Any:
    """Returns the elements as a flat array for an op that moves them. Dtypes that NumPy lacks go as integers."""
    check(tensor)
    return _array_of(_plain(_flat(tensor)))


def reduced(tensor: Tensor, op: str) -> Any:
    """Returns the elements as a flat array for an op that reduces them."""
    check(tensor)
    flat = _flat(tensor)
    if flat.dtype is torch.bfloat16:
        return flat  # Muster knows it, and NumPy does not
    if flat.dtype not in _IN_NUMPY:
        wider = torch.complex64 if flat.is_complex() else torch.float32
        raise Invalid(f"tensors of {tensor.dtype} can't be reduced", f"give them as {wider}")
    if op == _MEAN and not (flat.is_floating_point() or flat.is_complex()):
        raise Invalid(f"AVG of {tensor.dtype} would not stay {tensor.dtype}", "use SUM, and divide")
    return _array_of(flat)


def op_name(op: Any, *tensors: Tensor) -> str:
    """Returns Muster's name for a reduce op of torch."""
    kind = getattr(op, "op", op)
    known = _OPS.get(str(getattr(kind, "name", kind)))
    if known is None:
        name = f"ReduceOp.{getattr(kind, 'name', kind)}"
        raise Invalid(f"{name} is not one of the backend 'muster'", f"use one of: {', '.join(_OPS)}")
    of_bool = [tensor.dtype is torch.bool for tensor in tensors]
    if any(of_bool):
        if not all(of_bool):
            raise Invalid("tensors of bool and of other dtypes can't be reduced in one op", "call an op for each dtype")
        return _OF_BOOL.get(known, known)
    return known


def write(tensor: Tensor, value: Any) -> None:
    """Copies a flat result into a tensor.

    Raises:
        Mismatch: they differ in dtype, in the number of elements, or in the kind of memory.
    """
    if isinstance(value, DeviceArray) or getattr(value, "is_cuda", False) != tensor.is_cuda:
        raise Mismatch(
            f"this rank's tensor is on {tensor.device}, and got one on {value.device}",
            "give tensors of the host on all ranks, or of GPUs on all",
        )
    target = tensor.detach()
    if isinstance(value, torch.Tensor):
        _same(tensor, value.numel(), value.dtype in (tensor.dtype, _plain_dtype(tensor)), value.dtype)
        _copy(target, value.view(tensor.dtype).view(tensor.shape))
        return
    if target.is_conj() or target.is_neg():
        target.copy_(_plain_back(torch.from_numpy(np.array(value)), tensor).view(tensor.shape))
        return
    array = _memory_of(_plain(target))
    _same(tensor, value.size, value.dtype == array.dtype, value.dtype)
    np.copyto(array, value.reshape(array.shape))


def write_all(tensors: Sequence[Tensor], values: Sequence[Any]) -> None:
    same_number(len(tensors), len(values))
    for tensor, value in zip(tensors, values):
        write(tensor, value)


def same_number(needed: int, came: int) -> None:
    """Raises Mismatch if fewer values came than are needed, or more: a group that was reformed has fewer ranks."""
    if needed != came:
        raise Mismatch(
            f"{needed} values are needed, and {came} came: ranks have left the group",
            "destroy the process group, and make a new one",
        )


def same_size(tensors: Sequence[Tensor], elements: int, dtype: Any, what: str) -> None:
    """Raises Invalid if a tensor has another dtype or number of elements: before the op, so that it reads as a slip."""
    for index, tensor in enumerate(tensors):
        check(tensor)
        if tensor.numel() != elements or tensor.dtype is not dtype:
            raise Invalid(
                f"tensor {index} of the {what} has {tensor.numel()} elements of {tensor.dtype}, and {elements} of"
                f" {dtype} are needed",
                "give tensors of equal size and dtype",
            )


def gpus_of(tensors: Sequence[Tensor]) -> list[torch.device]:
    """The GPUs that tensors are on, each once."""
    return list({tensor.device: None for tensor in tensors if tensor.is_cuda})


def _copy(target: Tensor, value: Tensor) -> None:
    """Copies. Work on a GPU by streams that are not known here is over before, and sees the copy if it comes after."""
    gpus = gpus_of([target])
    for gpu in gpus:
        torch.cuda.synchronize(gpu)
    target.copy_(value)
    for gpu in gpus:
        torch.cuda.synchronize(gpu)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1)


class _Memory:
    """A tensor's memory, for NumPy."""

    __slots__ = ("__array_interface__", "_tensor")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        kind = _IN_NUMPY[tensor.dtype]
        interface = {
            "version": 3,
            "data": (tensor.data_ptr(), False),
            "typestr": kind.str,
            "shape": tuple(tensor.shape),
        }
        if not tensor.is_contiguous():
            interface["strides"] = tuple(stride * kind.itemsize for stride in tensor.stride())
        self.__array_interface__ = interface


def _array_of(flat: Tensor) -> Any:
    return flat if flat.is_cuda else _memory_of(flat)


def _memory_of(tensor: Tensor) -> Any:
    """Returns an array over a tensor's memory. ``tensor.numpy()`` would keep torch from ever resizing the tensor."""
    if tensor.numel() == 0:
        return np.empty(tuple(tensor.shape), _IN_NUMPY[tensor.dtype])
    if tensor.data_ptr() != 0:
        return np.asarray(_Memory(tensor))
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        raise Invalid("a tensor has no memory: its storage is empty", "give it memory before the op, and keep it")
    try:
        return tensor.numpy()  # one around another tensor, such as the result of a functional collective
    except (NotImplementedError, RuntimeError, TypeError) as error:
        kind = type(tensor).__name__
        raise Invalid(f"a {kind} has no memory to read or write: {error}", "give a plain tensor") from None


def _plain(tensor: Tensor) -> Tensor:
    dtype = _plain_dtype(tensor)
    return tensor if dtype is tensor.dtype else tensor.view(dtype)


def _plain_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype by which NumPy knows the tensor's elements."""
    return tensor.dtype if tensor.dtype in _IN_NUMPY else _OF_SIZE[tensor.element_size()]


def _plain_back(plain: Tensor, like: Tensor) -> Tensor:
    _same(like, plain.numel(), plain.dtype is (like.dtype if like.dtype in _IN_NUMPY else plain.dtype), plain.dtype)
    return plain.view(like.dtype)


def _same(tensor: Tensor, elements: int, is_same_dtype: bool, dtype: Any) -> None:
    if tensor.numel() == elements and is_same_dtype:
        return
    raise Mismatch(
        f"this rank's tensor has {tensor.numel()} elements of {tensor.dtype}, and got {elements} of {dtype}",
        "give tensors of equal size and dtype on all ranks",
    )
