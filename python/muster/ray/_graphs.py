"""Muster as the communicator of collectives in Compiled Graphs of Ray."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import ray

import muster
from muster._group import Group
from muster.errors import Invalid
from muster.ray import _cluster, _hooks
from muster.ray._backend import TIMEOUT_S


class Communicator(_hooks.CPUCommunicator):  # type: ignore[misc]
    """Lets the collectives of a Compiled Graph be Muster's::

        reduced = ray.experimental.collective.allreduce.bind(nodes, transport=muster.ray.Communicator(actors))

    The tensors of ``allreduce``, ``allgather`` and ``reducescatter`` may be on the host or on GPUs. What one node of a
    graph passes to another goes through Ray's channels in the host's memory, as without it.

    Args:
        actors: all that take part; their order is that of the ranks.
        timeout: seconds that each op may take.

    Raises:
        Invalid: the actors are not a list of different actors. Or Ray has made this as the communicator of an
            accelerator, which it can't be.
    """

    def __init__(self, actors: Sequence[Any], *others: Any, timeout: float = TIMEOUT_S) -> None:
        if others:
            raise Invalid(
                "Muster can't be the communicator of an accelerator's context: it has no streams that Ray could order",
                "give it to the collective: .bind(nodes, transport=muster.ray.Communicator(actors))",
            )
        ids = [_hooks.id_of_actor(actor) for actor in actors if isinstance(actor, ray.actor.ActorHandle)]
        if not ids or len(set(ids)) != len(actors):
            raise Invalid("actors has to be a list of different actors", "give the handles, in the order of ranks")
        super().__init__(len(ids), list(actors))
        self._timeout = timeout
        self._name = f"ray graph {uuid.uuid4()}"
        self._group: Group | None = None

    def initialize(self, rank: int) -> None:
        """Takes this actor's seat. Called by Ray in each actor."""
        super().initialize(rank)
        _cluster.ready()
        self._group = muster.group(self._name, rank=rank, world_size=self.get_world_size(), timeout=self._timeout)

    def destroy(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.leave()

    def allreduce(self, send_buf: Any, recv_buf: Any, op: Any = "sum") -> None:
        """
        Raises:
            Timeout: an actor did not come in time; it is named.
            PeerLost: an actor is lost.
            Mismatch: the tensors differ in shape or dtype.
        """
        self._seat().allreduce(send_buf.detach(), op, out=recv_buf).result()

    def allgather(self, send_buf: Any, recv_buf: Any) -> None:
        """Writes the tensors one after the other along the first axis. Raises: see ``allreduce``."""
        parts = recv_buf.split(send_buf.shape[0]) if send_buf.shape[0] else [recv_buf] * self.get_world_size()
        self._seat().allgather(send_buf.detach(), out=list(parts)).result()

    def reducescatter(self, send_buf: Any, recv_buf: Any, op: Any = "sum") -> None:
        """The tensors are split evenly along the first axis. Raises: see ``allreduce``."""
        self._seat().reduce_scatter(send_buf.detach(), op, out=recv_buf).result()

    def send(self, value: Any, peer_rank: int) -> None:
        raise _no_tensors_between_nodes()

    def recv(self, shape: Any, dtype: Any, peer_rank: int, allocator: Any = None) -> Any:
        raise _no_tensors_between_nodes()

    def _seat(self) -> Group:
        if self._group is None:
            raise Invalid("this process has no seat in the graph's group", "only the graph itself makes these calls")
        return self._group

    def __reduce__(self) -> tuple[Any, ...]:
        return (_as_made, (self.get_actor_handles(), self._timeout, self._name))


def _as_made(actors: list[ray.actor.ActorHandle], timeout: float, name: str) -> Communicator:
    made = Communicator(actors, timeout=timeout)
    made._name = name
    return made


def _no_tensors_between_nodes() -> Invalid:
    return Invalid(
        "Muster carries the collectives of a graph, not what one node passes to another",
        "leave with_tensor_transport() out, or give it no transport",
    )
