"""PyTorch 2.13 as far as Muster and the programs here use it on GPUs: tensors, the caching allocator, its pools.

The signatures are those of ``torch/cuda/memory.py``, and the allocator's sizes, splits and lives of pools those of
``c10/cuda/CUDACachingAllocator.cpp``. It computes nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any

import driver
import numpy as np

strided = "strided"
float32, int16, uint8, bfloat16 = np.dtype(np.float32), np.dtype(np.int16), np.dtype(np.uint8), "bfloat16"

_MIB = 1 << 20


# ---- the caching allocator: one lock, as each device's has ----


class _Block:
    """A part of a segment. Neighbours that are free are joined."""

    def __init__(self, segment: _Segment, offset: int, size: int) -> None:
        self.segment, self.offset, self.size, self.is_free = segment, offset, size, True

    @property
    def address(self) -> int:
        return self.segment.address + self.offset


class _Segment:
    def __init__(self, pool: _Pool, address: int, size: int, is_small: bool) -> None:
        self.pool, self.address, self.size, self.is_small = pool, address, size, is_small
        self.blocks = [_Block(self, 0, size)]

    @property
    def is_unused(self) -> bool:
        return len(self.blocks) == 1 and self.blocks[0].is_free


class _Pool:
    """A private pool of one device, or with ``allocator=None`` the default one."""

    def __init__(self, allocator: Any) -> None:
        self.allocator, self.use_count, self.segments = allocator, 1, []

    def take(self, device: int, size: int) -> _Block:
        size = max(512, -(-size // 512) * 512)
        is_small = size <= _MIB
        for segment in self.segments:
            for index, block in enumerate(segment.blocks):
                if segment.is_small == is_small and block.is_free and block.size >= size:
                    return self._split(segment, index, size)
        whole = 2 * _MIB if is_small else 20 * _MIB if size < 10 * _MIB else -(-size // (2 * _MIB)) * 2 * _MIB
        address = self.allocator.alloc(whole, device) if self.allocator else driver.malloc(device, whole)
        if not address:
            raise OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        self.segments.append(_Segment(self, address, whole, is_small))
        return self._split(self.segments[-1], 0, size)

    def _split(self, segment: _Segment, index: int, size: int) -> _Block:
        block = segment.blocks[index]
        left = block.size - size
        if left >= 512 if segment.is_small else left > _MIB:
            segment.blocks.insert(index + 1, _Block(segment, block.offset + size, left))
            block.size = size
        block.is_free = False
        return block

    def give_back(self, block: _Block) -> None:
        block.is_free = True
        blocks = block.segment.blocks
        for index in reversed(range(1, len(blocks))):
            if blocks[index].is_free and blocks[index - 1].is_free:
                blocks[index - 1].size += blocks.pop(index).size

    def release_unused(self, device: int) -> None:
        for segment in [segment for segment in self.segments if segment.is_unused]:
            self.segments.remove(segment)
            if self.allocator:
                self.allocator.free(segment.address, segment.size, device)
            else:
                driver.free(device, segment.address)


class _DeviceAllocator:
    def __init__(self, device: int) -> None:
        self.device, self.lock = device, threading.RLock()
        self.default, self.pools = _Pool(None), {}
        self.underway: list[tuple[Any, int]] = []  # pools that threads allocate to: the first that fits is used

    def take(self, size: int) -> _Block:
        with self.lock:
            pool = next((self.pools[id_] for id_, thread in self.underway if thread == threading.get_ident()), None)
            return (pool or self.default).take(self.device, size)

    def give_back(self, block: _Block) -> None:
        with self.lock:
            block.segment.pool.give_back(block)

    def release(self, id_: Any) -> None:
        with self.lock:
            self.pools[id_].use_count -= 1

    def empty_cache(self) -> None:
        with self.lock:
            assert not self.underway, "captures_underway.empty() INTERNAL ASSERT FAILED"
            self.default.release_unused(self.device)
            for id_, pool in list(self.pools.items()):
                if pool.use_count == 0:
                    pool.release_unused(self.device)
                    if not pool.segments:
                        del self.pools[id_]


_allocators: dict[int, _DeviceAllocator] = {}


def _allocator(device: int) -> _DeviceAllocator:
    return _allocators.setdefault(device, _DeviceAllocator(device))


class _CustomAllocator:
    """What ``torch._C._cuda_customAllocator`` returns."""

    def __init__(self, alloc: int, free: int) -> None:
        size = ctypes.c_ssize_t
        self._alloc = ctypes.CFUNCTYPE(ctypes.c_void_p, size, ctypes.c_int, ctypes.c_void_p)(alloc)
        self._free = ctypes.CFUNCTYPE(None, ctypes.c_void_p, size, ctypes.c_int, ctypes.c_void_p)(free)

    def alloc(self, size: int, device: int) -> int | None:
        driver.use_device(device)
        return self._alloc(size, device, None)

    def free(self, address: int, size: int, device: int) -> None:
        driver.use_device(device)
        self._free(address, size, device, None)


class OutOfMemoryError(RuntimeError):
    pass


# ---- torch.cuda ----

cuda = types.ModuleType("torch.cuda")
cuda.memory = types.ModuleType("torch.cuda.memory")
cuda.OutOfMemoryError = OutOfMemoryError


class CUDAPluggableAllocator:
    def __init__(self, path_to_so_file: str, alloc_fn_name: str, free_fn_name: str):
        allocator = ctypes.CDLL(path_to_so_file)
        alloc_fn = ctypes.cast(getattr(allocator, alloc_fn_name), ctypes.c_void_p).value
        free_fn = ctypes.cast(getattr(allocator, free_fn_name), ctypes.c_void_p).value
        self._allocator = _CustomAllocator(alloc_fn, free_fn)

    def allocator(self) -> _CustomAllocator:
        return self._allocator


class MemPool:
    _last = 0

    def __init__(self, allocator: Any = None, use_on_oom: bool = False, no_split: bool = False):
        MemPool._last += 1
        self.id = (0, MemPool._last)
        self._allocator = _allocator(getattr(_current, "device", 0))
        self._allocator.pools[self.id] = _Pool(allocator)

    def __del__(self) -> None:
        assert self._allocator.pools[self.id].use_count == 1, "a pool ends while somebody allocates in it"
        self._allocator.release(self.id)
        try:
            self._allocator.empty_cache()
        except AssertionError as error:
            os.write(2, f"terminate called after throwing {error}\n".encode())
            os.abort()  # an error leaves a destructor


@contextlib.contextmanager
def _use_mem_pool(pool: MemPool, device: Any = None) -> Iterator[None]:
    allocator = _allocator(0 if device is None else device)
    entry = (pool.id, threading.get_ident())
    with allocator.lock:
        assert all(id_ != pool.id for id_, _ in allocator.underway), "already recording to mempool_id"
        allocator.pools.setdefault(pool.id, _Pool(None)).use_count += 1
        allocator.underway.append(entry)
    try:
        yield
    finally:
        with allocator.lock:
            allocator.underway.remove(entry)
        allocator.release(pool.id)


_current = threading.local()


@contextlib.contextmanager
def _device(index: int) -> Iterator[None]:
    before, _current.device = getattr(_current, "device", 0), index
    try:
        yield
    finally:
        _current.device = before


_process = os.getpid()


def _init() -> None:
    if os.getpid() != _process:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess.")
    driver.use_device(0)


def _empty_cache() -> None:
    for allocator in _allocators.values():
        allocator.empty_cache()


cuda.memory.CUDAPluggableAllocator = CUDAPluggableAllocator
cuda.MemPool = MemPool
cuda.use_mem_pool = _use_mem_pool
cuda.empty_cache = _empty_cache
cuda.device = _device
cuda.is_available = lambda: driver.device_count() > 0
cuda.init = _init
cuda.is_current_stream_capturing = lambda: False
cuda.get_allocator_backend = lambda: "native"

autograd = types.ModuleType("torch.autograd")
_multithreading = [True]


@contextlib.contextmanager
def _set_multithreading_enabled(mode: bool) -> Iterator[None]:
    before, _multithreading[0] = _multithreading[0], mode
    try:
        yield
    finally:
        _multithreading[0] = before


def _grad(outputs: Tensor, inputs: Tensor, grad_outputs: Tensor) -> tuple[Tensor]:
    """The gradient of ``exp`` at 0, which autograd's own thread for the GPU makes unless it may not."""
    made: list[Tensor] = []
    worker = threading.Thread(target=lambda: made.append(grad_outputs.clone()))
    if _multithreading[0]:
        worker.start()
        worker.join()
    else:
        worker.run()
    return (made.pop(),)


autograd.set_multithreading_enabled, autograd.grad = _set_multithreading_enabled, _grad


# ---- tensors ----


_storages: weakref.WeakValueDictionary[int, _StorageImpl] = weakref.WeakValueDictionary()


class _StorageImpl:
    """Counts its users as C++ does: tensors, and the one Python object that it may have."""

    def __init__(self, device: int, address: int, size: int, keeps: Any) -> None:
        self.device, self.address, self.size, self.keeps, self.users = device, address, size, keeps, 0
        self.python = 0  # the address of that object, which the storage does not keep
        _storages[id(self)] = self

    def __del__(self) -> None:
        if isinstance(self.keeps, _Block):
            _allocator(self.device).give_back(self.keeps)


class _User:
    def __init__(self, storage: _StorageImpl) -> None:
        self._storage = storage
        storage.users += 1

    def __del__(self) -> None:
        self._storage.users -= 1


class UntypedStorage(_User):
    def __init__(self, storage: _StorageImpl) -> None:
        super().__init__(storage)
        storage.python = id(self)

    def __del__(self) -> None:
        self._storage.python = 0
        super().__del__()

    @property
    def _cdata(self) -> int:
        return id(self._storage)


class _Device:
    def __init__(self, index: int) -> None:
        self.type, self.index = "cuda", index


class Tensor(_User):
    layout = strided
    _base = None

    def __init__(self, storage: _StorageImpl, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> None:
        super().__init__(storage)
        self.shape, self.dtype, self._offset = shape, dtype, offset
        self.device = _Device(storage.device)

    def _use_count(self) -> int:
        return 1

    def untyped_storage(self) -> UntypedStorage:
        address = self._storage.python
        return ctypes.cast(address, ctypes.py_object).value if address else UntypedStorage(self._storage)

    def data_ptr(self) -> int:
        return self._storage.address + self._offset

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def T(self) -> Tensor:
        return _Transposed(self._storage, self.shape[::-1], self.dtype, self._offset)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.index  # of CUDA

    def detach(self) -> Tensor:
        return Tensor(self._storage, self.shape, self.dtype, self._offset)

    def resolve_conj(self) -> Tensor:
        return self

    def resolve_neg(self) -> Tensor:
        return self

    def contiguous(self) -> Tensor:
        return self

    def __getitem__(self, rows: slice) -> Tensor:
        first, last, _ = rows.indices(self.shape[0])
        row = self.nbytes // self.shape[0]
        return Tensor(self._storage, (last - first, *self.shape[1:]), self.dtype, self._offset + first * row)

    def fill_(self, value: Any) -> Tensor:
        driver.write(self.device.index, self.data_ptr(), np.full(self.shape, value, self.dtype).tobytes())
        return self

    def clone(self) -> Tensor:
        made = empty(self.shape, dtype=self.dtype, device=f"cuda:{self.device.index}")
        driver.write(made.device.index, made.data_ptr(), bytes(self.cpu().numpy()))
        return made

    def requires_grad_(self) -> Tensor:
        return self

    def exp(self) -> Tensor:
        return self.clone()

    def cpu(self) -> Any:
        values = np.frombuffer(driver.read(self.device.index, self.data_ptr(), self.nbytes), self.dtype)
        return types.SimpleNamespace(numpy=lambda: values.reshape(self.shape))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "typestr": self.dtype.str,
            "shape": self.shape,
            "strides": None,
            "data": (self.data_ptr(), False),
            "version": 2,
        }


class _Transposed(Tensor):
    """A matrix whose elements are not in C order."""

    def detach(self) -> Tensor:
        return _Transposed(self._storage, self.shape, self.dtype, self._offset)

    def contiguous(self) -> Tensor:
        values = np.frombuffer(driver.read(self.device.index, self.data_ptr(), self.nbytes), self.dtype)
        made = empty(self.shape, dtype=self.dtype, device=f"cuda:{self.device.index}")
        driver.write(made.device.index, made.data_ptr(), values.reshape(self.shape[::-1]).T.tobytes())
        return made


def empty(shape: tuple[int, ...], *, dtype: Any = float32, device: str) -> Tensor:
    index, size = int(device.partition(":")[2]), math.prod(shape) * dtype.itemsize
    block = _allocator(index).take(size)
    return Tensor(_StorageImpl(index, block.address, size, block), tuple(shape), dtype)


def full(shape: tuple[int, ...], value: Any, *, dtype: Any = float32, device: str) -> Tensor:
    return empty(shape, dtype=dtype, device=device).fill_(value)


def ones(size: int, *, device: str, requires_grad: bool = False) -> Any:
    """Is asked for how references are counted, on the host: see ``_Counted``."""
    return _Counted(_StorageImpl(-1, 0, size, None))


class _Counted(Tensor):
    """A tensor on the host, which has no values here. Its exports and graphs count as users of its storage."""

    def __init__(self, storage: _StorageImpl) -> None:
        super().__init__(storage, (storage.size,), float32)
        self.grad_fn: Any = None

    def __getitem__(self, rows: slice) -> Tensor:
        return self.detach()

    def exp(self) -> _Counted:
        made = _Counted(_StorageImpl(-1, 0, self._storage.size, None))
        made.grad_fn = made.detach()
        return made

    def __dlpack__(self) -> Any:
        return self.detach()


def from_dlpack(array: Any) -> Tensor:
    interface = array.__cuda_array_interface__
    device = array.__dlpack_device__()[1]
    storage = _StorageImpl(device, interface["data"][0], array.nbytes, array)
    return Tensor(storage, tuple(interface["shape"]), np.dtype(interface["typestr"]))


inference_mode = enable_grad = contextlib.nullcontext

_C = types.ModuleType("torch._C")
_C._cuda_beginAllocateCurrentThreadToPool = None  # only whether it is there matters: _use_mem_pool stands in for it
_C._storage_Use_Count = lambda number: _storages[number].users

for _module in (autograd, cuda, cuda.memory, _C):
    sys.modules[_module.__name__] = _module
