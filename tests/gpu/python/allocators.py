"""The functions that PyTorch's allocator calls, called from here. `python allocators.py NAME` runs one program."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import muster
import numpy as np
from muster import _muster, _runtime

MIB = 1 << 20
DEVICE = "cuda:0"
GIL_CALLS = ("Ensure", "Release")

_library = ctypes.CDLL(_muster.__file__)
alloc, free = _library.muster_gpu_alloc, _library.muster_gpu_free
alloc.restype, free.restype = ctypes.c_void_p, None
alloc.argtypes = [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
free.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]


class Entered:
    """A call that this thread is in."""

    def __init__(self, device: str = DEVICE) -> None:
        self.call = _muster.gpu_call_on(_runtime.connection(), device, None)

    def __enter__(self) -> Any:
        assert self.call.enter()
        return self.call

    def __exit__(self, *error: object) -> None:
        self.call.leave()


class Interface:
    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (address, False),
            "version": 3,
        }


def stored_bytes() -> int:
    return {gpu["device"]: gpu["memory_used_bytes"] for gpu in muster.status()["gpus"]}[DEVICE]


def is_usable(address: int) -> bool:
    """Whether its memory can be read as 4 MiB."""
    return muster.put(Interface(address, (MIB,))).get().to_host().shape == (MIB,)


def inject(line: str) -> None:
    """Tells the fake driver which calls fail."""
    file = Path(os.environ["MUSTER_FAKE_GPU_DIR"]) / "inject"
    file.with_suffix(".new").write_text(line, encoding="utf-8")
    file.with_suffix(".new").rename(file)


def memory_of_the_store() -> None:
    before = stored_bytes()
    with Entered():
        address = alloc(20 * MIB, 0, None)
        assert stored_bytes() >= before + 20 * MIB
        assert is_usable(address)
    free(address, 20 * MIB, 0, None)
    with Entered():
        again = alloc(20 * MIB, 0, None)
        assert again == address
        free(again, 20 * MIB, 0, None)


def memory_outside_of_calls_is_plain() -> None:
    before = stored_bytes()
    address = alloc(20 * MIB, 0, None)
    with Entered("cuda:0"):
        other = alloc(20 * MIB, 1, None)  # of another GPU
    assert stored_bytes() < before + 20 * MIB
    assert is_usable(address)
    free(address, 20 * MIB, 0, None)
    free(other, 20 * MIB, 1, None)


def one_call_for_each_gpu() -> None:
    with Entered():
        second = _muster.gpu_call_on(_runtime.connection(), DEVICE, None)
        assert not second.enter()
        with Entered("cuda:1") as other:
            assert other.ordinal == 1
            addresses = [alloc(2 * MIB, ordinal, None) for ordinal in (0, 1)]
    for ordinal, address in enumerate(addresses):
        free(address, 2 * MIB, ordinal, None)
    entered: list[bool] = []
    with Entered():
        thread = threading.Thread(target=lambda: entered.append(second.enter()))
        thread.start()
        thread.join()
    assert entered == [True]


def frees_from_other_threads() -> None:
    with Entered():
        addresses = [alloc(2 * MIB, 0, None) for _ in range(24)]
    assert len(set(addresses)) == 24
    threads = [
        threading.Thread(target=lambda part=part: [free(address, 2 * MIB, 0, None) for address in part])
        for part in (addresses[::3], addresses[1::3], addresses[2::3])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Entered():
        again = [alloc(2 * MIB, 0, None) for _ in range(24)]
    assert set(again) & set(addresses)
    for address in again:
        free(address, 2 * MIB, 0, None)


def more_than_the_share_is_plain() -> None:
    """The GPUs' store has 256 MiB or more, and a call the quarter of it, at least 64 MiB."""
    limit = max(64 * MIB, {gpu["device"]: gpu["memory_bytes"] for gpu in muster.status()["gpus"]}[DEVICE] // 4)
    with Entered():
        within = alloc(limit - 2 * MIB, 0, None)
        taken = stored_bytes()
        beyond = alloc(4 * MIB, 0, None)
        assert stored_bytes() == taken
        assert is_usable(beyond)
        free(within, limit - 2 * MIB, 0, None)
        inside = alloc(4 * MIB, 0, None)
        assert inside not in (0, beyond)
    free(beyond, 4 * MIB, 0, None)
    free(inside, 4 * MIB, 0, None)


def nothing_for_nothing() -> None:
    with Entered():
        assert alloc(0, 0, None) is None
        assert alloc(-1, 0, None) is None
        assert alloc(2 * MIB, 63, None) is None
        assert alloc(1 << 60, 0, None) is None
        free(None, 0, 0, None)


def a_daemon_that_does_not_answer() -> None:
    """The library gets plain memory, and nobody waits for ever."""
    pid = muster.status()["pid"]
    with Entered():
        os.kill(pid, signal.SIGSTOP)
        try:
            address = alloc(20 * MIB, 0, None)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert address
        assert is_usable(address)
    free(address, 20 * MIB, 0, None)


def a_daemon_that_died() -> None:
    """What was taken goes back as ever, and what is wanted comes from the driver."""
    with Entered():
        address = alloc(20 * MIB, 0, None)
        os.kill(muster.status()["pid"], signal.SIGKILL)
        other = alloc(40 * MIB, 0, None)
        assert None not in (address, other)
    free(address, 20 * MIB, 0, None)
    free(other, 40 * MIB, 0, None)


def a_full_gpu() -> None:
    call = Entered()
    inject("call=cuMemAlloc out-of-memory")
    assert alloc(2 * MIB, 0, None) is None
    with call:
        address = alloc(2 * MIB, 0, None)
        assert alloc(1 << 40, 0, None) is None
    inject("")
    free(address, 2 * MIB, 0, None)


def nobody_waits_for_the_gil() -> None:
    """Whoever has it may wait for the lock of PyTorch's under which memory is asked for, and given back."""
    holder = ctypes.CDLL(str(Path(os.environ["MUSTER_DAEMON"]).parents[1] / "lib" / "libmuster_gil_holder.so"))
    beside_holder = holder.allocate_beside_gil_holder
    beside_holder.restype = ctypes.c_void_p
    gil = [ctypes.cast(getattr(ctypes.pythonapi, f"PyGILState_{name}"), ctypes.c_void_p) for name in GIL_CALLS]
    pid = muster.status()["pid"]
    with Entered():
        os.kill(pid, signal.SIGSTOP)  # so that it waits for long
        try:
            address = beside_holder(*gil, ctypes.cast(alloc, ctypes.c_void_p), ctypes.c_long(20 * MIB))
        finally:
            os.kill(pid, signal.SIGCONT)
        assert is_usable(address)
    free(address, 20 * MIB, 0, None)


def a_child_by_fork() -> None:
    with Entered():
        address = alloc(4 * MIB, 0, None)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert alloc(2 * MIB, 0, None) is None
                free(address, 4 * MIB, 0, None)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert is_usable(address)
    free(address, 4 * MIB, 0, None)


def a_region_of_cupy() -> None:
    call = _muster.gpu_call_on(_runtime.connection(), DEVICE, None)
    region = call.allocate(1)
    assert region.address % 256 == 0
    assert np.isfinite(muster.put(Interface(region.address, (4,))).get().to_host()).all()
    assert call.allocate(1 << 60) is None


if __name__ == "__main__":
    muster.init()
    globals()[sys.argv[1]]()
