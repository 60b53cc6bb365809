"""Muster's refs as Ray carries them."""

from __future__ import annotations

from typing import Any

import ray

from muster import _muster, _runtime
from muster._decorator import LOST
from muster._ref import Ref
from muster.errors import DaemonRestarted, DaemonUnavailable, Error, ObjectLost
from muster.ray import _owned


def register() -> None:
    """Lets Ray carry refs in any value: each pickle keeps the object as long as Ray keeps the pickle."""
    ray.util.register_serializer(Ref, serializer=_pickled, deserializer=_unpickled)


def _pickled(ref: Ref) -> tuple[bytes, int, ray.ObjectRef]:
    owned = _owned.open_owned()
    ref.keep_for(owned.name)
    marker = owned.marker
    owned.watch()
    return ref._alive().serialize_kept(), ref.copies, marker


def _unpickled(state: tuple[bytes, int, ray.ObjectRef]) -> Ref:
    return load(*state)


class LostRef(Ref):
    """A ref whose object was gone when it arrived. Every use raises ``error``."""

    __slots__ = ("error",)

    def __init__(self, error: Error) -> None:
        self.error = error

    @property
    def _native(self) -> Any:  # type: ignore[override]
        # A new one each time: with the frames that it passed, the same one would be part of a cycle that keeps them.
        error = type(self.error)(self.error.message, self.error.hint, self.error.ranks)
        setattr(error, LOST, True)
        raise error

    def __reduce__(self) -> tuple[Any, ...]:
        return (LostRef, (self.error,))

    def __repr__(self) -> str:
        return "<muster.Ref, lost>"


def load(serialized: bytes, copies: int, marker: ray.ObjectRef) -> Ref:
    """Returns the ref that such bytes name. If its object is gone, that is told when it is used.

    ``marker``: kept the object on its way; the ref itself keeps it now.
    """
    try:
        stored = _muster.deserialize(_runtime.socket_path(), serialized)
    except (ObjectLost, DaemonUnavailable, DaemonRestarted) as error:
        return LostRef(error.with_traceback(None))
    stored.copies = copies
    return Ref(stored)
