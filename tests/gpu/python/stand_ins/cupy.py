"""CuPy 14 as far as Muster and the programs here use it: arrays, and allocators with their pools.

The signatures are those of ``cupy/cuda/memory.pyx`` and ``cupy/cuda/__init__.py``. It computes nothing.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import driver
import numpy as np

float32 = np.float32


class _Local(threading.local):
    device = 0
    allocator: Callable[[int], MemoryPointer] | None = None


_local = _Local()


# ---- memory ----


class BaseMemory:
    def __init__(self, ptr: int, size: int, device_id: int) -> None:
        self.ptr, self.size, self.device_id = ptr, size, device_id


class Memory(BaseMemory):
    def __init__(self, size: int) -> None:
        super().__init__(driver.malloc(_local.device, size) if size else 0, size, _local.device)

    def __del__(self) -> None:
        if self.ptr:
            driver.free(self.device_id, self.ptr)


class UnownedMemory(BaseMemory):
    def __init__(self, ptr: int, size: int, owner: object, device_id: int = -1) -> None:
        super().__init__(ptr, size, device_id)
        self._owner = owner


class MemoryPointer:
    def __init__(self, mem: BaseMemory, offset: int) -> None:
        self.ptr, self.device_id, self.mem = mem.ptr + offset, mem.device_id, mem


class _Chunk:
    """A part of the memory that a pool got from its allocator."""

    def __init__(self, mem: BaseMemory, offset: int, size: int) -> None:
        self.mem, self.offset, self.size = mem, offset, size


class PooledMemory(BaseMemory):
    """It does not keep its chunk: the pool does, and a pool that ends takes the memory of its arrays along."""

    def __init__(self, chunk: _Chunk, pool: weakref.ref[MemoryPool]) -> None:
        super().__init__(chunk.mem.ptr + chunk.offset, chunk.size, chunk.mem.device_id)
        self.pool = pool

    def __del__(self) -> None:
        pool = self.pool()
        if pool is not None:
            pool.free.append(pool.in_use.pop(self.ptr))


class MemoryPool:
    """Splits free chunks, and never joins them here."""

    def __init__(self, allocator: Callable[[int], MemoryPointer] | None = None) -> None:
        self.allocator = allocator or (lambda size: MemoryPointer(Memory(size), 0))
        self.free: list[_Chunk] = []
        self.in_use: dict[int, _Chunk] = {}

    def malloc(self, size: int) -> MemoryPointer:
        size = -(-size // 512) * 512
        if size == 0:
            return MemoryPointer(Memory(0), 0)
        chunk = self._free_chunk(size) or _Chunk(self.allocator(size).mem, 0, size)
        self.in_use[chunk.mem.ptr + chunk.offset] = chunk
        return MemoryPointer(PooledMemory(chunk, weakref.ref(self)), 0)

    def _free_chunk(self, size: int) -> _Chunk | None:
        for chunk in self.free:
            if chunk.size >= size and chunk.mem.device_id == _local.device:
                self.free.remove(chunk)
                if chunk.size > size:
                    self.free.append(_Chunk(chunk.mem, chunk.offset + size, chunk.size - size))
                    chunk.size = size
                return chunk
        return None

    def free_all_blocks(self) -> None:
        self.free.clear()


_default_pool = MemoryPool()


def get_default_memory_pool() -> MemoryPool:
    return _default_pool


@contextlib.contextmanager
def _using_allocator(allocator: Callable[[int], MemoryPointer] | None = None) -> Iterator[None]:
    before, _local.allocator = _local.allocator, allocator
    try:
        yield
    finally:
        _local.allocator = before


class _Device:
    def __init__(self, device: int | None = None) -> None:
        self.id = _local.device if device is None else device
        self._before: list[int] = []

    def __enter__(self) -> None:
        self._before.append(_local.device)
        _local.device = self.id

    def __exit__(self, *error: object) -> None:
        _local.device = self._before.pop()

    def synchronize(self) -> None:
        driver.use_device(self.id)
        driver.call("cuCtxSynchronize")


cuda = types.ModuleType("cupy.cuda")
cuda.MemoryPool, cuda.MemoryPointer, cuda.UnownedMemory, cuda.Device = MemoryPool, MemoryPointer, UnownedMemory, _Device
cuda.using_allocator = _using_allocator
cuda.get_allocator = lambda: _local.allocator or _default_pool.malloc
cuda.is_available = lambda: driver.device_count() > 0
cuda.get_current_stream = lambda: types.SimpleNamespace(ptr=0)
sys.modules["cupy.cuda"] = cuda


# ---- arrays ----


class ndarray:
    def __init__(self, shape: tuple[int, ...], dtype: Any, memptr: MemoryPointer | None = None, base: Any = None):
        self.shape, self.dtype, self.base = tuple(shape), np.dtype(dtype), base
        self.data = memptr or cuda.get_allocator()(self.nbytes)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.data.ptr, False),
            "strides": None,
            "version": 3,
        }

    def __getitem__(self, rows: slice) -> ndarray:
        first, last, _ = rows.indices(self.shape[0])
        offset = self.data.ptr - self.data.mem.ptr + first * (self.nbytes // self.shape[0])
        whole = self if self.base is None else self.base
        return ndarray((last - first, *self.shape[1:]), self.dtype, MemoryPointer(self.data.mem, offset), whole)

    def fill(self, value: Any) -> None:
        driver.write(self.data.device_id, self.data.ptr, np.full(self.shape, value, self.dtype).tobytes())

    def get(self) -> np.ndarray[Any, Any]:
        values = driver.read(self.data.device_id, self.data.ptr, self.nbytes)
        return np.frombuffer(values, self.dtype).reshape(self.shape)


ndarray.__module__ = "cupy"


def full(shape: tuple[int, ...], fill_value: Any, dtype: Any) -> ndarray:
    made = ndarray(shape, dtype)
    made.fill(fill_value)
    return made


def asarray(array: np.ndarray[Any, Any]) -> ndarray:
    made = ndarray(array.shape, array.dtype)
    driver.write(made.data.device_id, made.data.ptr, array.tobytes())
    return made


def from_dlpack(array: Any) -> ndarray:
    interface = array.__cuda_array_interface__
    memory = UnownedMemory(interface["data"][0], array.nbytes, array, array.__dlpack_device__()[1])
    return ndarray(interface["shape"], interface["typestr"], MemoryPointer(memory, 0))
