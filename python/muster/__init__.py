"""Muster: an in-memory collective object store.

Processes of one node put arrays into a daemon's shared memory without copies and combine them with collectives::

    import muster

    muster.init()
    group = muster.group("dp", rank=0, world_size=4)

    @muster.collective_input
    def gradient(weights, batch):
        ...
        return {"w": gw, "b": gb}

    mean = group.allreduce(gradient(weights, batch), op="mean").result()
"""

from typing import TYPE_CHECKING, NoReturn

from muster._decorator import collective_input
from muster._group import Group, group
from muster._muster import DeviceArray, __version__
from muster._ops import (
    all_to_all_refs,
    allgather_refs,
    allreduce_refs,
    broadcast_refs,
    reduce_refs,
    reduce_scatter_refs,
)
from muster._ref import Ref
from muster._runtime import init, status
from muster._store import empty, is_pinned, put, seal, wait
from muster._tokens import Token, end_token, open_token
from muster._work import Work
from muster.errors import (
    DaemonRestarted,
    DaemonUnavailable,
    Denied,
    Error,
    GroupClosed,
    Invalid,
    Mismatch,
    NoQuorum,
    ObjectLost,
    OutOfMemory,
    PeerLost,
    QuotaExceeded,
    Timeout,
)

__all__ = [
    "DaemonRestarted",
    "DaemonUnavailable",
    "Denied",
    "DeviceArray",
    "Error",
    "Group",
    "GroupClosed",
    "Invalid",
    "Mismatch",
    "NoQuorum",
    "ObjectLost",
    "OutOfMemory",
    "PeerLost",
    "QuotaExceeded",
    "Ref",
    "Timeout",
    "Token",
    "Work",
    "__version__",
    "all_to_all_refs",
    "allgather_refs",
    "allreduce_refs",
    "broadcast_refs",
    "collective_input",
    "empty",
    "end_token",
    "group",
    "init",
    "is_pinned",
    "open_token",
    "put",
    "reduce_refs",
    "reduce_scatter_refs",
    "seal",
    "status",
    "wait",
]

if not TYPE_CHECKING:  # to them a wrong name is an error already

    def __getattr__(name: str) -> NoReturn:
        """Says what to do for the parts that are imported by themselves."""
        if name in ("ray", "torch"):
            raise AttributeError(f"muster.{name} is not imported (hint: import muster.{name})")
        raise AttributeError(f"module 'muster' has no attribute {name!r}")
