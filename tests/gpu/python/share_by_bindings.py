"""Two processes share device memory by cuda-bindings: `make` and `take`, over the socket that is descriptor argv[2]."""

from __future__ import annotations

import socket
import sys
from typing import Any

from cuda.bindings import driver as cu

READ_WRITE = cu.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
POSIX_FD = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR


def check(result: tuple[Any, ...]) -> Any:
    """Returns what the call gave besides its code, which must be success."""
    if result[0] != cu.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"{result[0]!r}")
    return result[1] if len(result) == 2 else result[1:]


def use_device() -> Any:
    check(cu.cuInit(0))
    device = check(cu.cuDeviceGet(0))
    check(cu.cuCtxSetCurrent(check(cu.cuDevicePrimaryCtxRetain(device))))
    return device


def properties() -> Any:
    wanted = cu.CUmemAllocationProp()
    wanted.type = cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    wanted.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    wanted.location.id = 0
    wanted.requestedHandleTypes = POSIX_FD
    return wanted


def map_memory(handle: Any, size: int) -> Any:
    address = check(cu.cuMemAddressReserve(size, 0, 0, 0))
    check(cu.cuMemMap(address, size, 0, handle, 0))
    access = cu.CUmemAccessDesc()
    access.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    access.location.id = 0
    access.flags = READ_WRITE
    check(cu.cuMemSetAccess(address, size, [access], 1))
    return address


def give_up(device: Any, handle: Any, address: Any, size: int) -> None:
    check(cu.cuMemUnmap(address, size))
    check(cu.cuMemAddressFree(address, size))
    check(cu.cuMemRelease(handle))
    check(cu.cuDevicePrimaryCtxRelease(device))


def make(channel: socket.socket) -> None:
    """Makes memory, sends it, and expects every byte one higher when the other side answers."""
    device = use_device()
    minimum = cu.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
    size = check(cu.cuMemGetAllocationGranularity(properties(), minimum))
    handle = check(cu.cuMemCreate(size, properties(), 0))
    address = map_memory(handle, size)
    values = bytes(range(250)) * 4
    check(cu.cuMemcpyHtoD(address, values, len(values)))
    check(cu.cuCtxSynchronize())
    descriptor = check(cu.cuMemExportToShareableHandle(handle, POSIX_FD, 0))
    socket.send_fds(channel, [size.to_bytes(8, "little")], [int(descriptor)])
    channel.recv(1)
    changed = bytearray(len(values))
    check(cu.cuMemcpyDtoH(changed, address, len(changed)))
    if bytes(changed) != bytes(value + 1 for value in values):
        raise AssertionError("the bytes are not those that the other process wrote")
    give_up(device, handle, address, size)


def take(channel: socket.socket) -> None:
    """Takes memory, and makes every byte one higher."""
    device = use_device()
    message, descriptors, _, _ = socket.recv_fds(channel, 8, 1)
    size = int.from_bytes(message, "little")
    handle = check(cu.cuMemImportFromShareableHandle(descriptors[0], POSIX_FD))
    address = map_memory(handle, size)
    values = bytearray(1000)
    check(cu.cuMemcpyDtoH(values, address, len(values)))
    check(cu.cuMemcpyHtoD(address, bytes(value + 1 for value in values), len(values)))
    check(cu.cuCtxSynchronize())
    channel.send(b"x")
    give_up(device, handle, address, size)


if __name__ == "__main__":
    {"make": make, "take": take}[sys.argv[1]](socket.socket(fileno=int(sys.argv[2])))
