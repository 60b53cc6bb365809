"""Muster as a backend of ``ray.util.collective``."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from typing import Any, TypeVar

import ray

import muster
from muster import Work
from muster._group import Group
from muster.errors import DaemonRestarted, DaemonUnavailable, GroupClosed, Invalid, PeerLost
from muster.ray import _cluster, _hooks
from muster.ray._hooks import BaseGroup, is_backend_available, register_collective_backend

NAME = "MUSTER"
TIMEOUT_S = 30.0
_T = TypeVar("_T")


class MusterGroup(BaseGroup):  # type: ignore[misc]
    """A seat of this process in a group. Ray calls the methods of ``BaseGroup`` with lists of one tensor.

    Making it does not wait for other ranks. Each call ends within ``timeout`` seconds, or as the options say.

    Attributes:
        group: the seat, for everything that Ray's interface has no name for.
        timeout: seconds that an op may take.
    """

    def __init__(self, world_size: int, rank: int, group_name: str) -> None:
        super().__init__(world_size, rank, group_name)
        declared = _hooks.timeout_of_declared(group_name)
        self.timeout = declared or TIMEOUT_S
        name = f"ray {ray.get_runtime_context().get_job_id()} {group_name}"
        try:
            _cluster.ready()
            self.group: Group = muster.group(name, rank=rank, world_size=world_size)
        except Invalid as error:
            if declared is None:
                raise
            # Of a group that the driver has declared, Ray takes a ValueError for a group that nobody has.
            raise RuntimeError(str(error)) from error

    def result_of(self, work: Work) -> Any:
        """Waits for an op of this group.

        Raises:
            DaemonRestarted: the daemon that the group was in has ended. Starting an op raises it, too.
        """
        return self._unless_lost(work.result)

    def _unless_lost(self, call: Callable[..., _T], *args: Any, **named: Any) -> _T:
        try:
            return call(*args, **named)
        except (DaemonRestarted, DaemonUnavailable):
            raise self._lost() from None
        except PeerLost as error:
            hint = "in each live rank, call destroy_collective_group() and make the group anew"
            raise PeerLost(error.message, hint, error.ranks) from None

    def _lost(self) -> DaemonRestarted:
        return DaemonRestarted(
            f"the daemon that the group {self.group_name!r} was in has ended, and the group with it",
            f"in each rank, call destroy_collective_group({self.group_name!r}) and init_collective_group() again:"
            " that starts a daemon",
        )

    @classmethod
    def backend(cls) -> str:
        return NAME

    @classmethod
    def check_backend_availability(cls) -> bool:
        return True

    def destroy_group(self) -> None:
        with contextlib.suppress(DaemonRestarted, DaemonUnavailable, GroupClosed):
            self.group.leave()

    # ---- as Ray calls it ----

    def allreduce(self, tensor: list[Any], allreduce_options: Any = None) -> None:
        op = _op_of(allreduce_options)
        self._each(lambda x, t: self.start_allreduce(x, op, t), _only(tensor), allreduce_options)

    def barrier(self, barrier_options: Any = None) -> None:
        timeout = self._timeout(barrier_options)
        self.result_of(self.start_barrier(timeout))

    def reduce(self, tensor: list[Any], reduce_options: Any = None) -> None:
        op, root = _op_of(reduce_options), getattr(reduce_options, "root_rank", 0)
        self._each(lambda x, t: self.start_reduce(x, root, op, t), _only(tensor), reduce_options)

    def broadcast(self, tensor: list[Any], broadcast_options: Any = None) -> None:
        root = getattr(broadcast_options, "root_rank", 0)
        self._each(lambda x, t: self.start_broadcast(x, root, t), _only(tensor), broadcast_options)

    def allgather(self, tensor_list: list[list[Any]], tensor: list[Any], allgather_options: Any = None) -> None:
        into = _only(tensor_list)
        self._each(lambda x, t: self.start_allgather(into, x, t), _only(tensor), allgather_options)

    def reducescatter(self, tensor: list[Any], tensor_list: list[list[Any]], reducescatter_options: Any = None) -> None:
        op, parts = _op_of(reducescatter_options), _only(tensor_list)
        self._each(lambda x, t: self.start_reducescatter(x, parts, op, t), _only(tensor), reducescatter_options)

    def send(self, tensor: list[Any], send_options: Any) -> None:
        self._each(lambda x, t: self.start_send(x, send_options.dst_rank, t), _only(tensor), send_options)

    def recv(self, tensor: list[Any], recv_options: Any) -> None:
        self._each(lambda x, t: self.start_recv(x, recv_options.src_rank, t), _only(tensor), recv_options)

    # ---- the same as works, in place ----

    def start_allreduce(self, tensor: Any, op: Any, timeout: float | None) -> Work:
        return self._unless_lost(self.group.allreduce, tensor, op, out=tensor, timeout=timeout)

    def start_barrier(self, timeout: float | None) -> Work:
        return self._unless_lost(self.group.barrier, timeout=timeout)

    def start_reduce(self, tensor: Any, root: int, op: Any, timeout: float | None) -> Work:
        out = tensor if self.rank == root else None
        return self._unless_lost(self.group.reduce, tensor, root, op, out=out, timeout=timeout)

    def start_broadcast(self, tensor: Any, root: int, timeout: float | None) -> Work:
        out = None if self.rank == root else tensor
        return self._unless_lost(self.group.broadcast, tensor, root, out=out, timeout=timeout)

    def start_allgather(self, into: list[Any], tensor: Any, timeout: float | None) -> Work:
        return self._unless_lost(self.group.allgather, tensor, out=into, timeout=timeout)

    def start_reducescatter(self, tensor: Any, parts: list[Any], op: Any, timeout: float | None) -> Work:
        return self._unless_lost(self.group.reduce_scatter, parts, op, out=tensor, timeout=timeout)

    def start_send(self, tensor: Any, rank: int, timeout: float | None) -> Work:
        return self._unless_lost(self.group.send, tensor, dst=rank, timeout=timeout)

    def start_recv(self, tensor: Any, rank: int, timeout: float | None) -> Work:
        return self._unless_lost(self.group.recv, src=rank, out=tensor, timeout=timeout)

    def _each(self, start: Callable[[Any, float], Work], tensor: Any, options: Any) -> None:
        self.result_of(start(tensor, self._timeout(options)))

    def _timeout(self, options: Any) -> float:
        """Ray gives options a negative time if the caller gave none."""
        given: Any = getattr(options, "timeout_ms", None) or 0
        seconds = given.total_seconds() if isinstance(given, datetime.timedelta) else given / 1000
        return float(seconds) if seconds > 0 else self.timeout


def _op_of(options: Any) -> Any:
    return getattr(options, "reduceOp", "sum")


def _only(tensors: list[Any]) -> Any:
    if len(tensors) != 1:
        raise Invalid(
            f"a rank of a Muster group has one array, not {len(tensors)}", "let each GPU have a rank of its own"
        )
    return tensors[0]


def register() -> None:
    """Makes ``backend="muster"`` known in this process."""
    if not is_backend_available(NAME):
        register_collective_backend(NAME, MusterGroup)
    _hooks.name_backend(NAME)
