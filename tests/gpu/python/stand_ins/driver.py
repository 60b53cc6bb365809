"""The few calls of the CUDA driver that the stand-ins make, over whatever libcuda.so.1 the loader finds."""

from __future__ import annotations

import atexit
import ctypes
import functools
from typing import Any


@functools.cache
def library() -> ctypes.CDLL:
    cuda = ctypes.CDLL("libcuda.so.1")
    check(cuda.cuInit(0))
    return cuda


def check(status: int) -> None:
    if status:
        raise RuntimeError(f"CUDA error {status}")


def call(name: str, *arguments: Any) -> None:
    check(getattr(library(), name)(*arguments))


def use_device(ordinal: int) -> None:
    """Makes the device's primary context current, as the CUDA runtime does."""
    call("cuCtxSetCurrent", primary_context(ordinal))


@functools.cache
def primary_context(ordinal: int) -> ctypes.c_void_p:
    device, context = ctypes.c_int(), ctypes.c_void_p()
    call("cuDeviceGet", ctypes.byref(device), ordinal)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    atexit.register(library().cuDevicePrimaryCtxRelease_v2, device)
    return context


def device_count() -> int:
    count = ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    return count.value


def malloc(ordinal: int, size: int) -> int:
    use_device(ordinal)
    address = ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
    return address.value


def free(ordinal: int, address: int) -> None:
    use_device(ordinal)
    call("cuMemFree_v2", ctypes.c_uint64(address))


def write(ordinal: int, address: int, values: bytes) -> None:
    use_device(ordinal)
    if values:
        call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), values, ctypes.c_size_t(len(values)))


def read(ordinal: int, address: int, size: int) -> bytearray:
    use_device(ordinal)
    values = bytearray(size)
    at = (ctypes.c_char * size).from_buffer(values)
    call("cuMemcpyDtoH_v2", at, ctypes.c_uint64(address), ctypes.c_size_t(size))
    del at
    return values
