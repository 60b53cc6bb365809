"""PyTorch and CuPy allocate inside the store while a decorated call with ``device="cuda:0"`` runs.

All that Muster knows of their allocators, and of who keeps their memory, is here. Each call has pools of its own, which
end when its result is in the store: from then on a library only gives memory back, and never uses it again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from muster import _muster
from muster.errors import Error

_CUPY_UNIT = 512  # bytes; CuPy rounds all sizes up to this


class Route:
    """The way from the libraries' allocators into ``call``."""

    def __init__(self, call: _muster.GpuCall) -> None:
        self.call = call
        self._entered = contextlib.ExitStack()
        self._pools = _pools  # a forked child has others
        self._pool: Any = None
        self._cupy: _CupyMemory | None = None

    def enter(self, torch: Any, cupy: Any) -> None:
        """From here on, the libraries that are there allocate in pools of this call."""
        self._entered.callback(self.call.leave)
        if torch is not None and self._pools.begin(self.call.ordinal):
            self._entered.callback(self._pools.leave, self.call.ordinal)
            with torch.cuda.device(self.call.ordinal):  # a pool is of the device that is current
                self._pool = torch.cuda.MemPool(_torch_allocator(torch).allocator())
            self._entered.enter_context(torch.cuda.use_mem_pool(self._pool, device=self.call.ordinal))
            # Autograd's own threads would allocate elsewhere.
            self._entered.enter_context(torch.autograd.set_multithreading_enabled(False))
        if cupy is not None:
            self._cupy = _CupyMemory(cupy, self.call)
            self._entered.enter_context(cupy.cuda.using_allocator(self._cupy.allocate))

    def leave(self) -> None:
        """They allocate elsewhere again. What they have stays theirs."""
        self._entered.close()

    def end(self) -> None:
        """They give everything back that no array uses; the rest comes later."""
        self.leave()
        if self._pool is not None:
            pool, self._pool = [self._pool], None
            self._pools.end(self.call.ordinal, pool)
        if self._cupy is not None:
            self._cupy.end()


@contextlib.contextmanager
def route(connection: _muster.Connection, device: str, timeout: float | None) -> Iterator[Route | None]:
    """Routes what this thread allocates with PyTorch and CuPy on the device into the store.

    Nothing is routed, and None comes back, if neither library uses a GPU here, if a call around this one has the GPU
    already, or inside a capture of a CUDA graph: a graph writes to its memory at each replay.
    """
    torch, cupy = (_torch_on_gpus(), _cupy_on_gpus()) if device.startswith("cuda") else (None, None)
    call = _call_on(connection, device, timeout) if torch or cupy else None
    if call is None or not call.enter():
        yield None
        return
    routed = _entered(call, torch, cupy)
    try:
        yield routed
    finally:
        if routed is not None:
            routed.end()


def _entered(call: _muster.GpuCall, torch: Any, cupy: Any) -> Route | None:
    """Returns None if a library can't do it now, for instance as another thread is still importing it."""
    routed = Route(call)
    try:
        routed.enter(torch, cupy)
    except BaseException as error:
        routed.end()
        if isinstance(error, (AttributeError, RuntimeError)):
            return None
        raise
    return routed


def _call_on(connection: _muster.Connection, device: str, timeout: float | None) -> _muster.GpuCall | None:
    """Returns None if the store has no memory there now, or this process can't use it: then arrays are copied."""
    try:
        return _muster.gpu_call_on(connection, device, timeout)
    except Error:
        return None


def _torch_on_gpus() -> Any:
    """Returns PyTorch if it is imported, can use GPUs, and has pools of one thread: 2.8 and later, with its own cache.

    Before, a pool got the allocations of all threads. Then memory of one call could be used again by another call.
    """
    torch = sys.modules.get("torch")
    has_pools_of_threads = hasattr(getattr(torch, "_C", None), "_cuda_beginAllocateCurrentThreadToPool")
    if torch is None or not has_pools_of_threads or not _is_available(torch):
        return None
    try:
        torch.cuda.init()
        has_pools = torch.cuda.get_allocator_backend() == "native"
        return torch if has_pools and not torch.cuda.is_current_stream_capturing() else None
    except (AttributeError, RuntimeError):  # as in _is_available()
        return None


@functools.cache
def _torch_allocator(torch: Any) -> Any:
    """Is kept for ever: PyTorch calls it when it frees memory of pools that have ended."""
    return torch.cuda.memory.CUDAPluggableAllocator(_muster.__file__, "muster_gpu_alloc", "muster_gpu_free")


def _cupy_on_gpus() -> Any:
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and _is_available(cupy) else None


def _is_available(library: Any) -> bool:
    """Whether a library can use GPUs here. It may raise an error of its own: in a forked child, where Muster's comes
    later, or while another thread is still importing it.
    """
    try:
        return bool(library.cuda.is_available())
    except (AttributeError, RuntimeError):
        return False


class _PoolsOfGpu:
    """PyTorch's pools of ended calls, which end when no thread is in a call with a pool on this GPU.

    PyTorch ends the process if a pool ends while any thread allocates in one (``synchronize_and_free_events`` of
    CUDACachingAllocator.h). If calls are never all over, few pools wait: further calls have none, and are copied.
    """

    _WAITING_MAX = 4
    _PATIENCE_S = 1.0  # the end of a pool waits for the GPU

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls = 0
        self._waiting: list[Any] = []
        self._is_ending = False

    def begin(self) -> bool:
        """Says whether a call may have a pool; then ``leave`` must follow."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._is_ending, self._PATIENCE_S):
                return False
            if len(self._waiting) >= self._WAITING_MAX:
                return False
            self._calls += 1
            return True

    def leave(self) -> None:
        """A thread allocates in a call's pool no more."""
        with self._changed:
            self._calls -= 1
        self._end_unused()

    def end(self, pools: list[Any]) -> None:
        """Ends pools that no thread uses. Nobody else may refer to them, once this list is empty."""
        with self._changed:
            self._waiting.extend(pools)
            pools.clear()
        self._end_unused()

    def _end_unused(self) -> None:
        with self._changed:
            if self._calls or self._is_ending or not self._waiting:
                return
            ending, self._waiting = self._waiting, []
            self._is_ending = True
        try:
            ending.clear()
        finally:
            with self._changed:
                self._is_ending = False
                self._changed.notify_all()


class _Pools:
    """The pools of this process. In its forked children they do nothing: those can't use the GPUs of their parent."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._of: dict[int, _PoolsOfGpu] = {}

    def begin(self, ordinal: int) -> bool:
        return self._of.setdefault(ordinal, _PoolsOfGpu()).begin()  # two threads may be the first at once

    def leave(self, ordinal: int) -> None:
        if os.getpid() == self._pid:
            self._of[ordinal].leave()

    def end(self, ordinal: int, pools: list[Any]) -> None:
        if os.getpid() == self._pid:
            self._of[ordinal].end(pools)
        else:
            _kept_for_good.append(pools)


_pools = _Pools()
_kept_for_good: list[Any] = []  # what a child has of its parent: its end would use the GPU


def _begin_anew_in_child() -> None:
    global _pools
    _kept_for_good.append(_pools)
    _pools = _Pools()


os.register_at_fork(after_in_child=_begin_anew_in_child)


class _CupyMemory:
    """Memory of the store for the arrays that CuPy makes in a call.

    Memory that an array has given back is used again for one of the same size, by work of the same stream, while the
    call runs: so temporary arrays don't wait for the GPU. CuPy's own pool can't do that: its arrays don't keep it, and
    without it their memory goes.
    """

    def __init__(self, cupy: Any, call: _muster.GpuCall) -> None:
        self._cupy, self._call = cupy, call
        self._otherwise = cupy.cuda.get_allocator()
        self._unused: dict[tuple[int, int], list[Any]] = {}
        self._is_over = False

    def allocate(self, size: int) -> Any:
        """Returns a ``cupy.cuda.MemoryPointer``, as CuPy wants of an allocator."""
        cuda, call = self._cupy.cuda, self._call
        if size == 0 or cuda.Device().id != call.ordinal:
            return self._otherwise(size)
        key = (-(-size // _CUPY_UNIT) * _CUPY_UNIT, cuda.get_current_stream().ptr)
        unused = self._unused.get(key)
        region = unused.pop() if unused else call.allocate(key[0])
        if region is None:
            pointer = self._otherwise(size)
            call.refused(pointer.ptr, size)
            return pointer
        return cuda.MemoryPointer(cuda.UnownedMemory(region.address, size, _Lent(self, key, region), call.ordinal), 0)

    def take_back(self, key: tuple[int, int], region: Any) -> None:
        if not self._is_over:
            self._unused.setdefault(key, []).append(region)

    def end(self) -> None:
        """From here on, memory goes back to the store as soon as no array has it."""
        self._is_over = True
        self._unused.clear()


class _Lent:
    """What an array of CuPy keeps as the owner of its memory."""

    def __init__(self, memory: _CupyMemory, key: tuple[int, int], region: Any) -> None:
        self._memory, self._key, self._region = memory, key, region

    def __del__(self) -> None:
        self._memory.take_back(self._key, self._region)


def holds(array: Any) -> list[tuple[Any, Any]] | None:
    """Says by which objects an array keeps its memory: pairs of a holder and what it holds. None if nobody knows."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and type(array) is torch.Tensor:
        return [] if _torch_counts_are_known(torch) else None
    if cupy is not None and type(array) is cupy.ndarray:
        whole = array.base
        parts = [array] if whole is None else [array, whole]
        pairs = [(part, part.data) for part in parts] + [(part.data, part.data.mem) for part in parts]
        return pairs if whole is None else [(array, whole), *pairs]
    return None


def keeper_of(array: Any) -> Any:
    """Returns what keeps the memory that an array has now. A tensor may get other memory: ``tensor.data = other``."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(array, torch.Tensor):
        return array.detach()
    return array.data if cupy is not None and isinstance(array, cupy.ndarray) else array


def are_sole(arrays: Sequence[Any]) -> list[bool]:
    """Says of each of these arrays whether nothing else shares its memory. Nobody else has the objects themselves."""
    torch = sys.modules.get("torch")
    if torch is None:
        return [True] * len(arrays)
    is_tensor = [type(array) is torch.Tensor for array in arrays]
    shared = _shared_storages(torch, [array for array, is_one in zip(arrays, is_tensor) if is_one])
    return [not is_one or _number_of_storage(array) not in shared for array, is_one in zip(arrays, is_tensor)]


def _shared_storages(torch: Any, tensors: Sequence[Any]) -> set[int]:
    """Returns the storages of these tensors that anything else uses: other tensors, graphs of autograd, exports.

    A view keeps the tensor that it was made of (``_base``), also if the program has forgotten that.
    """
    if not tensors:
        return set()
    leaves = {id(tensor): tensor for tensor in tensors}
    base_alone, alone = _names_of_base_alone(torch), _counts_alone(torch)
    shared = {
        _number_of_storage(tensor)
        for tensor in tensors
        if tensor._base is not None and id(tensor._base) not in leaves and _names_of_base(tensor) != base_alone
    }
    users = {**leaves, **{id(each._base): each._base for each in tensors if each._base is not None}}
    by_storage: dict[int, list[Any]] = {}
    for user in users.values():
        by_storage.setdefault(_number_of_storage(user), []).append(user)
    for number, family in by_storage.items():
        expected = (alone[0] + len(family) - 1, *alone[1:])
        views = [sum(other._base is user for other in family) for user in family]
        is_known = all(user._use_count() == 1 + count for user, count in zip(family, views))
        if not is_known or _counts_of(torch, family[0]) != expected:
            shared.add(number)
    return shared


def _number_of_storage(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata)


def _counts_of(torch: Any, tensor: Any) -> tuple[int, int, int]:
    """Returns how many users a tensor's storage has, and how many references and weak ones Python has on it."""
    storage = tensor.untyped_storage()
    users = torch._C._storage_Use_Count(storage._cdata)
    return users, sys.getrefcount(storage), weakref.getweakrefcount(storage)


def _names_of_base(view: Any) -> tuple[int, int]:
    """Returns how many references and weak ones Python has on the tensor of which a view was made."""
    base = view._base
    return sys.getrefcount(base), weakref.getweakrefcount(base) if base is not None else 0


@functools.cache
def _counts_alone(torch: Any) -> tuple[int, int, int]:
    return _counts_of(torch, _fresh(torch))


@functools.cache
def _names_of_base_alone(torch: Any) -> tuple[int, int]:
    return _names_of_base(_fresh(torch)[1:])


@functools.cache
def _torch_counts_are_known(torch: Any) -> bool:
    """Checks that this PyTorch counts as these rules expect; if not, everything is copied."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            sole, shared = _examples(torch)
            return all(_is_sole(torch, *made()) for made in sole) and not any(
                _is_sole(torch, *made()) for made in shared
            )
    except (AttributeError, RuntimeError, TypeError):
        return False


def _is_sole(torch: Any, tensor: Any, *_others: Any) -> bool:
    return not _shared_storages(torch, [tensor])


def _examples(torch: Any) -> tuple[list[Callable[[], tuple[Any, ...]]], list[Callable[[], tuple[Any, ...]]]]:
    """Returns functions that make tensors of which nothing else has the memory, and others of which something has."""

    def beside(other_of: Callable[[Any], Any]) -> Callable[[], tuple[Any, ...]]:
        def make() -> tuple[Any, ...]:
            made = _fresh(torch)
            return made, other_of(made)

        return make

    def of_a_kept_base() -> tuple[Any, ...]:
        made = _fresh(torch)
        return made[1:], made

    def saved() -> tuple[Any, ...]:
        made = _fresh(torch, requires_grad=True).exp()
        return made, made.grad_fn

    sole = [lambda: (_fresh(torch),), lambda: (_fresh(torch)[1:],)]
    others = [
        lambda made: made[1:],
        lambda made: made.detach(),
        lambda made: made.untyped_storage(),
        lambda made: made.__dlpack__(),
    ]
    return sole, [*(beside(other_of) for other_of in others), of_a_kept_base, saved]


def _fresh(torch: Any, **options: Any) -> Any:
    return torch.ones(3, device="cpu", **options)
