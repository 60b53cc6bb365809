"""Every name of ``ray.util.collective``, over Muster::

    import muster.ray.collective as collective   # instead of: import ray.util.collective as collective

The calls work in place and wait, as there. They also take ``timeout`` (seconds that the op may take; by default 30, or
what the group was made with), and ``async_op=True``: then they return a ``muster.Work`` at once, and write the result
when its ``result()`` is called. ``get_group_handle(name).group`` is the ``muster.Group``.

What differs: any ``backend`` is Muster. A rank that does not come, or is lost, is an error that names it, within the
timeout: ``muster.Timeout`` or ``muster.PeerLost``. Ranks that disagree get ``muster.Mismatch``. ``reducescatter``
leaves its inputs as they are.
"""

from __future__ import annotations

import math
from typing import Any

import ray.util.collective as rays
from ray.util.collective import (
    destroy_collective_group,
    get_collective_group_size,
    get_rank,
    gloo_available,
    is_group_initialized,
    nccl_available,
    register_collective_backend,
)
from ray.util.collective.types import ReduceOp

from muster import _muster
from muster._work import Work
from muster.errors import Invalid
from muster.ray import _backend
from muster.ray._backend import NAME, MusterGroup

__all__ = [
    "ReduceOp",
    "allgather",
    "allgather_multigpu",
    "allreduce",
    "allreduce_multigpu",
    "barrier",
    "broadcast",
    "broadcast_multigpu",
    "create_collective_group",
    "destroy_collective_group",
    "get_collective_group_size",
    "get_group_handle",
    "get_rank",
    "gloo_available",
    "init_collective_group",
    "is_backend_available",
    "is_group_initialized",
    "nccl_available",
    "recv",
    "recv_multigpu",
    "reduce",
    "reduce_multigpu",
    "reducescatter",
    "reducescatter_multigpu",
    "register_collective_backend",
    "send",
    "send_multigpu",
]


def is_backend_available(backend: str) -> bool:
    """Whether ``ray.util.collective`` has this backend here; ``"muster"`` is always there."""
    return bool(rays.is_backend_available(backend))


def init_collective_group(
    world_size: int, rank: int, backend: Any = NAME, group_name: str = "default", gloo_timeout: int = 30000
) -> None:
    """Takes a seat in a group, in an actor or a task. It does not wait for other ranks.

    Args:
        world_size: how many ranks the group has.
        rank: this process's rank, from 0.
        backend: taken for the sake of old calls; it is always Muster.
        group_name: of the group, within the job.
        gloo_timeout: milliseconds that each op may take.

    Raises:
        RuntimeError: this process is no worker of Ray, or it has a seat in a group of that name.
        Invalid: the other ranks have made the group with another world_size, the rank is taken, or gloo_timeout is no
            time.
    """
    _check_time(gloo_timeout)
    rays.init_collective_group(world_size, rank, NAME, group_name)
    _handle(group_name).timeout = gloo_timeout / 1000


def create_collective_group(
    actors: list[Any],
    world_size: int,
    ranks: list[int],
    backend: Any = NAME,
    group_name: str = "default",
    gloo_timeout: int = 30000,
) -> None:
    """Gives actors seats in a group, from the driver. Each takes its seat at its first call.

    Raises:
        RuntimeError: there is a group of that name, or ``ranks`` are not 0 to ``world_size`` - 1.
        Invalid: gloo_timeout is no time.
    """
    _check_time(gloo_timeout)
    rays.create_collective_group(actors, world_size, ranks, NAME, group_name, gloo_timeout)


def _check_time(gloo_timeout: Any) -> None:
    if not isinstance(gloo_timeout, (int, float)) or not 0 < gloo_timeout < math.inf:
        raise Invalid(f"gloo_timeout={gloo_timeout!r} is not valid", "give milliseconds, more than 0")


def get_group_handle(group_name: str = "default") -> MusterGroup:
    """Returns this process's seat.

    Raises:
        RuntimeError: it has none.
    """
    return _handle(group_name)


def allreduce(
    tensor: Any,
    group_name: str = "default",
    op: Any = ReduceOp.SUM,
    *,
    async_op: bool = False,
    timeout: float | None = None,
) -> Work | None:
    """Reduces the ranks' tensors elementwise; each tensor becomes the reduction."""
    handle = _handle(group_name)
    return _done(handle, handle.start_allreduce(_array(tensor), op, _time(handle, timeout)), async_op)


def barrier(group_name: str = "default", *, async_op: bool = False, timeout: float | None = None) -> Work | None:
    """Waits for all ranks."""
    handle = _handle(group_name)
    return _done(handle, handle.start_barrier(_time(handle, timeout)), async_op)


def reduce(
    tensor: Any,
    dst_rank: int = 0,
    group_name: str = "default",
    op: Any = ReduceOp.SUM,
    *,
    async_op: bool = False,
    timeout: float | None = None,
) -> Work | None:
    """Reduces the ranks' tensors elementwise; the tensor of ``dst_rank`` becomes the reduction."""
    handle = _handle(group_name)
    _check_rank(handle, dst_rank)
    return _done(handle, handle.start_reduce(_array(tensor), dst_rank, op, _time(handle, timeout)), async_op)


def broadcast(
    tensor: Any,
    src_rank: int = 0,
    group_name: str = "default",
    *,
    async_op: bool = False,
    timeout: float | None = None,
) -> Work | None:
    """Each tensor becomes that of ``src_rank``."""
    handle = _handle(group_name)
    _check_rank(handle, src_rank)
    return _done(handle, handle.start_broadcast(_array(tensor), src_rank, _time(handle, timeout)), async_op)


def allgather(
    tensor_list: list[Any],
    tensor: Any,
    group_name: str = "default",
    *,
    async_op: bool = False,
    timeout: float | None = None,
) -> Work | None:
    """The tensors of the list become those of the ranks, in their order."""
    handle = _handle(group_name)
    into = _list(tensor_list, handle, "allgather")
    return _done(handle, handle.start_allgather(into, _array(tensor), _time(handle, timeout)), async_op)


def reducescatter(
    tensor: Any,
    tensor_list: list[Any],
    group_name: str = "default",
    op: Any = ReduceOp.SUM,
    *,
    async_op: bool = False,
    timeout: float | None = None,
) -> Work | None:
    """The tensor becomes the reduction of what the ranks have at this rank's place of their lists."""
    handle = _handle(group_name)
    parts = _list(tensor_list, handle, "reducescatter")
    return _done(handle, handle.start_reducescatter(_array(tensor), parts, op, _time(handle, timeout)), async_op)


def send(
    tensor: Any,
    dst_rank: int,
    group_name: str = "default",
    *,
    async_op: bool = False,
    timeout: float | None = None,
) -> Work | None:
    """Sends to a rank; ends when that has received it."""
    handle = _handle(group_name)
    _check_peer(handle, dst_rank)
    return _done(handle, handle.start_send(_array(tensor), dst_rank, _time(handle, timeout)), async_op)


def recv(
    tensor: Any,
    src_rank: int,
    group_name: str = "default",
    *,
    async_op: bool = False,
    timeout: float | None = None,
) -> Work | None:
    """The tensor becomes what the rank sends."""
    handle = _handle(group_name)
    _check_peer(handle, src_rank)
    return _done(handle, handle.start_recv(_array(tensor), src_rank, _time(handle, timeout)), async_op)


# ---- lists of tensors, one for each GPU of a rank: a rank of Muster has one ----


def allreduce_multigpu(tensor_list: list[Any], group_name: str = "default", op: Any = ReduceOp.SUM) -> None:
    """Like ``allreduce``, for a list of one tensor."""
    allreduce(_backend._only(tensor_list), group_name, op)


def reduce_multigpu(
    tensor_list: list[Any], dst_rank: int = 0, dst_tensor: int = 0, group_name: str = "default", op: Any = ReduceOp.SUM
) -> None:
    """Like ``reduce``, for a list of one tensor."""
    reduce(_backend._only(tensor_list), dst_rank, group_name, op)


def broadcast_multigpu(
    tensor_list: list[Any], src_rank: int = 0, src_tensor: int = 0, group_name: str = "default"
) -> None:
    """Like ``broadcast``, for a list of one tensor."""
    broadcast(_backend._only(tensor_list), src_rank, group_name)


def allgather_multigpu(
    output_tensor_lists: list[list[Any]], input_tensor_list: list[Any], group_name: str = "default"
) -> None:
    """Like ``allgather``, for lists of one."""
    allgather(_backend._only(output_tensor_lists), _backend._only(input_tensor_list), group_name)


def reducescatter_multigpu(
    output_tensor_list: list[Any],
    input_tensor_lists: list[list[Any]],
    group_name: str = "default",
    op: Any = ReduceOp.SUM,
) -> None:
    """Like ``reducescatter``, for lists of one."""
    reducescatter(_backend._only(output_tensor_list), _backend._only(input_tensor_lists), group_name, op)


def send_multigpu(
    tensor: Any, dst_rank: int, dst_gpu_index: int, group_name: str = "default", n_elements: int = 0
) -> None:
    """Like ``send``. ``n_elements``: only so many from the tensor's start, if not 0."""
    send(_first(tensor, n_elements), dst_rank, group_name)


def recv_multigpu(
    tensor: Any, src_rank: int, src_gpu_index: int, group_name: str = "default", n_elements: int = 0
) -> None:
    """Like ``recv``. ``n_elements``: only so many from the tensor's start, if not 0."""
    recv(_first(tensor, n_elements), src_rank, group_name)


def _handle(group_name: str) -> MusterGroup:
    handle = rays.get_group_handle(group_name)
    if not isinstance(handle, MusterGroup):
        raise Invalid(
            f"the group '{group_name}' of this process has another backend: {type(handle).__name__}",
            "make it with muster.ray.collective, or with backend='muster'",
        )
    return handle


def _time(handle: MusterGroup, timeout: float | None) -> float:
    seconds = _muster.seconds(timeout)
    return handle.timeout if seconds is None else seconds


def _done(handle: MusterGroup, work: Work, async_op: bool) -> Work | None:
    if async_op:
        return work
    handle.result_of(work)
    return None


def _array(tensor: Any) -> Any:
    if not hasattr(tensor, "shape") or not hasattr(tensor, "dtype"):
        raise RuntimeError(f"Unrecognized tensor type '{type(tensor)}': give an array of NumPy, torch or CuPy")
    return tensor


def _list(tensors: Any, handle: MusterGroup, call: str) -> list[Any]:
    if not isinstance(tensors, list):
        raise RuntimeError(f"The input must be a list of tensors. Got '{type(tensors)}'.")
    if len(tensors) != handle.world_size:
        raise RuntimeError(
            f"The length of the tensor list of {call} is {len(tensors)}, and the group has {handle.world_size} ranks"
        )
    return [_array(tensor) for tensor in tensors]


def _check_rank(handle: MusterGroup, rank: int) -> None:
    if not 0 <= rank < handle.world_size:
        raise ValueError(f"rank '{rank}' must be from 0 to less than world size '{handle.world_size}'")


def _check_peer(handle: MusterGroup, rank: int) -> None:
    _check_rank(handle, rank)
    if rank == handle.rank:
        raise RuntimeError(f"The rank '{rank}' is self.")


def _first(tensor: Any, elements: int) -> Any:
    return tensor.reshape(-1)[:elements] if elements else tensor


_backend.register()
