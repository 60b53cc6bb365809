"""Muster's refs as Ray carries them."""

from __future__ import annotations

import contextlib
from typing import Any

import ray

from muster import _muster, _runtime
from muster._decorator import LOST
from muster._ref import Ref
from muster.errors import DaemonRestarted, DaemonUnavailable, Error, ObjectLost
from muster.ray import _hooks, _owned

#: Where an object's bytes are: on which node of Ray's, and how many.
Place = tuple[str, int]
#: What Ray carries of a ref.
Carried = tuple[bytes, int, Place]
_here = ""
#: What happens to objects. Other errors tell of something else than a loss.
_LOSSES = (ObjectLost, DaemonUnavailable, DaemonRestarted)


def register(node: str) -> None:
    """Lets Ray carry refs in any value: each pickle keeps the object as long as Ray keeps the pickle.

    ``node``: whose daemon this process uses; empty if that is not known yet.
    """
    global _here
    _here = node or _here
    ray.util.register_serializer(Ref, serializer=_pickled, deserializer=_unpickled)


def here() -> str:
    """The node whose daemon this process uses."""
    return _here


def carried(ref: Ref, marker: ray.ObjectRef) -> Carried:
    """What Ray carries of a ref, called while it is pickled. As long as Ray keeps the pickle, it keeps the marker."""
    _hooks.contain(marker)
    return ref._alive().serialize_kept(), ref.copies, place_of(ref)


def place_of(ref: Ref) -> Place:
    """
    Raises:
        ObjectLost: the ref was freed.
    """
    return ref.place if isinstance(ref, LostRef) else (ref._node or _here, ref.nbytes)


def _pickled(ref: Ref) -> Carried:
    return carried(ref, _marker_of(ref))


def _marker_of(ref: Ref) -> ray.ObjectRef:
    """What keeps the object for all values that this ref is in. The ref has it, too: it is made once."""
    connection = _runtime.connection()
    if ref._marker is None or ref._marker[1] is not connection:
        owned = _owned.open_owned()
        ref.keep_for(owned.name)
        ref._marker = owned.marker, connection
        owned.watch()
    marker: ray.ObjectRef = ref._marker[0]
    return marker


def _unpickled(state: Carried) -> Ref:
    return load(*state)


class LostRef(Ref):
    """A ref whose object was not in this node's store when it arrived. Every use raises ``error``.

    Attributes:
        place: where the object was made.
    """

    __slots__ = ("error", "place")

    def __init__(self, error: Error, place: Place) -> None:
        self.error = error
        self.place = place
        self._node = place[0]

    def is_elsewhere(self) -> bool:
        """Whether the object may not be lost, but in the store of another node, whose daemon can't be reached here."""
        node = self.place[0]
        unreachable = isinstance(self.error, DaemonUnavailable)
        return unreachable and node != _here and any(row["NodeID"] == node and row["Alive"] for row in ray.nodes())

    def to_raise(self) -> Error:
        # A new one each time: with the frames that it passed, the same one would be part of a cycle that keeps them.
        if self.is_elsewhere():
            return ObjectLost(
                f"the object is in the store of node {self.place[0][:16]}, and this process is on node {_here[:16]}",
                "let a task read it there: options(scheduling_strategy=muster.ray.near(ref))",
            )
        error = type(self.error)(self.error.message, self.error.hint, self.error.ranks)
        if isinstance(error, _LOSSES):
            setattr(error, LOST, True)
        return error

    @property
    def _native(self) -> Any:  # type: ignore[override]
        raise self.to_raise()

    def __reduce__(self) -> tuple[Any, ...]:
        return (LostRef, (self.error, self.place))

    def __repr__(self) -> str:
        return "<muster.Ref, lost>"


def _deserialized(serialized: bytes) -> _muster.Ref:
    socket = _runtime.socket_path()
    with contextlib.suppress(DaemonUnavailable):
        return _muster.deserialize(socket, serialized)
    # This process may not have known that its daemon has ended, and the object be in the next one.
    return _muster.deserialize(socket, serialized)


def load(serialized: bytes, copies: int, place: Place) -> Ref:
    """Returns the ref that such bytes name. If its object is gone, that is told when it is used."""
    try:
        stored = _deserialized(serialized)
    except Error as error:  # Ray can't tell its user what is raised here
        return LostRef(error.with_traceback(None), place)
    stored.copies = copies
    ref = Ref(stored)
    ref._node = place[0]
    return ref
