"""Values that hold refs, and the arrays in them."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import ray

from muster._ref import Ref
from muster._words import a_type_of
from muster.errors import DaemonRestarted, DaemonUnavailable, Invalid, ObjectLost
from muster.ray import _recovery


def get(x: Any, timeout: float | None = None) -> Any:
    """Returns arrays for anything that holds refs: ObjectRefs are waited for, and Muster's refs are read.

    Args:
        x: an ObjectRef, a ``muster.Ref``, or a list, tuple, dict or dataclass with some in it. Anything else is
            returned as it is.
        timeout: seconds to wait for all of Ray's results; None waits until they are there.

    Raises:
        ray.exceptions.GetTimeoutError: they were not there in time.
        ray.exceptions.RayTaskError: a task failed.
        ObjectLost: an object is gone.
        Invalid: the nesting has too many levels for this interpreter, or holds itself.
    """
    try:
        return _got(x, timeout)
    except RecursionError:
        raise Invalid(
            f"the value nests too deeply, or holds itself: {a_type_of(x)}", "give a flat list of refs, or one ref"
        ) from None


def _got(x: Any, timeout: float | None) -> Any:
    found: dict[ray.ObjectRef, None] = {}
    _map(x, lambda ref: found.setdefault(ref) if isinstance(ref, ray.ObjectRef) else None)
    until = None if timeout is None else time.monotonic() + timeout
    try:
        return _read(x, list(found), until)
    except (DaemonRestarted, DaemonUnavailable, ObjectLost):
        if not found:
            raise
    return _read(x, list(found), until)  # the daemon has ended in between: results of tasks can be made again


def _read(x: Any, refs: list[ray.ObjectRef], until: float | None) -> Any:
    left = None if until is None else max(until - time.monotonic(), 0)
    values = dict(zip(refs, _recovery.settled(refs, left)))
    return _map(_map(x, lambda ref: values.get(ref, ref)), lambda ref: ref.get() if isinstance(ref, Ref) else ref)


def _map(x: Any, function: Any) -> Any:
    """Returns the value with a function's results in place of its refs. What holds none stays the same object."""
    if isinstance(x, (ray.ObjectRef, Ref)):
        return function(x)
    if type(x) is dict:
        return {key: _map(value, function) for key, value in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_map(value, function) for value in x))
    if type(x) in (list, tuple):
        return type(x)(_map(value, function) for value in x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return _map_fields(x, function)
    return x


def _map_fields(x: Any, function: Any) -> Any:
    mapped = {field.name: _map(getattr(x, field.name), function) for field in dataclasses.fields(x)}
    if all(value is getattr(x, name) for name, value in mapped.items()):
        return x
    made = copy.copy(x)
    for name, value in mapped.items():
        object.__setattr__(made, name, value)
    return made
