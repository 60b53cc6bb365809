"""Tensors on GPUs for programs of torch.distributed: PyTorch's own, or where its build has none, a stand-in.

The stand-in is a subclass of PyTorch's own tensor, whose memory is the driver's. It knows its device, shape, strides
and dtype, and copies. It does not compute.
"""

from __future__ import annotations

import ctypes
import operator
import sys
import weakref
from pathlib import Path
from typing import Any

import torch

HAS_GPUS = torch.cuda.is_available()
if not HAS_GPUS:
    sys.path.append(str(Path(__file__).parent / "stand_ins"))
    import driver


def on_gpu(tensor: Any, gpu: int) -> Any:
    """Returns a copy of a tensor, with the same strides."""
    return tensor.cuda(gpu) if HAS_GPUS else _TensorOnGpu.of(tensor, gpu)


class _Memory:
    def __init__(self, gpu: int, address: int, size: int) -> None:
        self.gpu, self.address, self.size = gpu, address, size

    def read(self) -> torch.Tensor:
        if self.size == 0:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(driver.read(self.gpu, self.address, self.size), dtype=torch.uint8)

    def write(self, values: torch.Tensor) -> None:
        driver.write(self.gpu, self.address, values.numpy().tobytes()[: self.size])


class _TensorOnGpu(torch.Tensor):
    memory: _Memory

    @staticmethod
    def over(memory: _Memory, like: torch.Tensor) -> _TensorOnGpu:
        """Returns the tensor that lies in the memory as ``like`` does in its storage."""
        tensor = torch.Tensor._make_wrapper_subclass(
            _TensorOnGpu,
            like.shape,
            strides=like.stride(),
            storage_offset=like.storage_offset(),
            dtype=like.dtype,
            device=f"cuda:{memory.gpu}",
        )
        tensor.memory = memory
        return tensor

    @staticmethod
    def of(tensor: torch.Tensor, gpu: int) -> _TensorOnGpu:
        storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        memory = _Memory(gpu, driver.malloc(gpu, max(storage.numel(), 1)), storage.numel())
        weakref.finalize(memory, driver.free, gpu, memory.address).atexit = False  # the context has ended by then
        memory.write(storage)
        return _TensorOnGpu.over(memory, tensor)

    def data_ptr(self) -> int:
        return self.memory.address + self.storage_offset() * self.element_size() if self.numel() else 0

    def cpu(self) -> torch.Tensor:
        return self._in(self.memory.read()).clone()

    def contiguous(self) -> torch.Tensor:
        return self if self.is_contiguous() else _TensorOnGpu.of(self.cpu().contiguous(), self.memory.gpu)

    def copy_(self, other: torch.Tensor) -> torch.Tensor:
        storage = self.memory.read()
        self._in(storage).copy_(other.cpu())
        self.memory.write(storage)
        return self

    def _in(self, storage: torch.Tensor) -> torch.Tensor:
        """Returns the tensor of the host that lies in the storage as this one does in its memory."""
        made = torch.empty(0, dtype=self.dtype)
        return made.set_(storage.untyped_storage(), self.storage_offset(), self.shape, self.stride())

    # PyTorch would call it in place of functions of torch.distributed, too.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        """Makes views: what computes needs a build for GPUs before it comes here."""
        return given[0]._view(function, *given[1:], **(named or {}))

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._view(operator.getitem, index)

    def _view(self, function: Any, *given: Any, **named: Any) -> torch.Tensor:
        return _TensorOnGpu.over(self.memory, function(self._in(self.memory.read()), *given, **named))


class _DLTensor(ctypes.Structure):
    """As in dlpack.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_OF_DLPACK = {
    (0, 8): torch.int8,
    (0, 16): torch.int16,
    (0, 32): torch.int32,
    (0, 64): torch.int64,
    (1, 8): torch.uint8,
    (1, 16): torch.uint16,
    (1, 32): torch.uint32,
    (1, 64): torch.uint64,
    (2, 16): torch.float16,
    (2, 32): torch.float32,
    (2, 64): torch.float64,
    (4, 16): torch.bfloat16,
    (5, 64): torch.complex64,
    (5, 128): torch.complex128,
    (6, 8): torch.bool,
}


def _from_dlpack(array: Any) -> torch.Tensor:
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsule = array.__dlpack__()
    told = _DLTensor.from_address(pointer_of(capsule, b"dltensor"))
    shape = [told.shape[axis] for axis in range(told.ndim)]
    like = torch.empty(shape, dtype=_OF_DLPACK[told.code, told.bits])
    memory = _Memory(told.device_id, told.data or 0, like.nbytes)
    memory.keeps = capsule
    return _TensorOnGpu.over(memory, like)


def _stand_in() -> None:
    init_future = torch.futures.Future.__init__
    torch.futures.Future.__init__ = lambda self, *, devices=None: init_future(self)
    torch.cuda.is_available = lambda: True
    torch.cuda.get_device_capability = lambda _: (9, 0)
    torch.cuda.synchronize = lambda _: None
    torch.from_dlpack = _from_dlpack


if not HAS_GPUS:
    _stand_in()
