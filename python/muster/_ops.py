"""Reduce ops by any of their names, and ops over refs of one process."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from muster import _muster, _runtime
from muster._checks import flag
from muster._ref import Ref
from muster._words import a_type_of, count
from muster._work import Work
from muster.errors import Invalid

_ALIASES = {
    "avg": "mean",
    "average": "mean",
    "product": "prod",
    "add": "sum",
    "multiply": "prod",
    "minimum": "min",
    "maximum": "max",
    "bitwise_and": "band",
    "bitwise_or": "bor",
    "bitwise_xor": "bxor",
    "logical_and": "land",
    "logical_or": "lor",
}
_NUMBERS = _muster.reduce_ops


def reduce_op(op: Any) -> int:
    """Returns Muster's number of a reduce op. It is given by name, or as a member of torch's, Ray's or another enum."""
    number = _NUMBERS.get(op) if type(op) is str else None
    if number is not None:
        return number
    # torch's ReduceOp prints as "RedOpType.SUM"; an enum's member has a name.
    name = op if isinstance(op, str) else str(getattr(op, "name", None) or getattr(op, "__name__", None) or op)
    name = name.rpartition(".")[2].lower()
    number = _NUMBERS.get(_ALIASES.get(name, name))
    if number is None:
        raise Invalid(f"reduce op {op!r} is unknown", f"use one of: {', '.join(_NUMBERS)}")
    return number


def _takes_results_of_tasks(op: Callable[..., Work]) -> Callable[..., Work]:
    """Lets an op over refs take Ray's ObjectRefs among them. It starts when the last of these is there."""

    @functools.wraps(op)
    def start(refs: Iterable[Any], *arguments: Any, **named: Any) -> Work:
        if "muster.ray" not in sys.modules or isinstance(refs, Ref) or not hasattr(refs, "__iter__"):
            return op(refs, *arguments, **named)
        found = list(refs)
        pending = importlib.import_module("muster.ray._pending")
        if not any(map(pending.is_pending, found)):
            return op(found, *arguments, **named)
        work: Work = pending.Later(op.__name__, found, lambda ready: op(ready, *arguments, **named))
        return work

    return start


def _stored(refs: Iterable[Any]) -> list[_muster.Ref]:
    if isinstance(refs, Ref) or not hasattr(refs, "__iter__"):
        raise Invalid("a list of refs is needed, one for each rank", "put the refs into a list")
    found = []
    for ref in refs:
        if not isinstance(ref, Ref):
            raise Invalid(f"got {a_type_of(ref)} among the refs", "give what put(), seal() and decorated calls return")
        found.append(ref._alive())
    if not found:
        raise Invalid("the list of refs is empty", "give one ref for each rank")
    return found


def _parts(ranks: Sequence[_muster.Ref]) -> list[_muster.Ref]:
    """Returns the elements of each rank's list as objects, rank by rank."""
    inputs: list[_muster.Ref] = []
    for position, stored in enumerate(ranks):
        if stored.plain:
            rows = stored.shape(0)[0] if stored.shape(0) else 0
            if not stored.shape(0) or rows % len(ranks):
                raise Invalid(
                    f"ref {position} of shape {stored.shape(0)} can't be split evenly over {len(ranks)} ranks",
                    "make axis 0 a multiple of the number of refs, or put lists",
                )
            each = rows // len(ranks)
            inputs.extend(stored.rows(rank * each, each) for rank in range(len(ranks)))
            continue
        parts = stored.parts()
        if len(parts) != len(ranks):
            raise Invalid(
                f"ref {position} holds a list of {len(parts)} for {count(len(ranks), 'rank')}",
                "put lists with an element for each rank",
            )
        inputs.extend(parts)
    return inputs


def _combine(
    kind: str,
    inputs: list[_muster.Ref],
    ranks: int,
    op: Any,
    root: int,
    stack: bool,
    as_list: bool,
    timeout: float | None,
) -> Work:
    number = reduce_op(op)
    started = _muster.combine(
        _runtime.connection(), _muster.kinds[kind], inputs, ranks, number, root, stack, as_list, timeout
    )
    return Work(started, (kind, None, "", ""))


@_takes_results_of_tasks
def allreduce_refs(refs: Iterable[Ref], op: Any = "sum", *, timeout: float | None = None) -> Work:
    """Reduces these refs elementwise, in their order. It needs no ranks: the input is complete.

    Refs on several GPUs give a result on that of the first; so do all ops over refs.
    """
    found = _stored(refs)
    return _combine("allreduce", found, len(found), op, 0, False, False, timeout)


@_takes_results_of_tasks
def reduce_refs(refs: Iterable[Ref], root: int = 0, op: Any = "sum", *, timeout: float | None = None) -> Work:
    """Like ``allreduce_refs``; ``root`` is checked, but makes no difference in one process."""
    found = _stored(refs)
    return _combine("reduce", found, len(found), op, root, False, False, timeout)


@_takes_results_of_tasks
def broadcast_refs(refs: Iterable[Ref], root: int = 0, *, timeout: float | None = None) -> Work:
    """Gives the root's value; the other refs are ignored."""
    found = _stored(refs)
    if not isinstance(root, (int, np.integer)) or not 0 <= root < len(found):
        raise Invalid(
            f"root={root!r} is out of range for {len(found)} refs", "roots run from 0 to the number of refs - 1"
        )
    return _combine("broadcast", [found[root]], 1, "sum", 0, False, False, timeout)


@_takes_results_of_tasks
def allgather_refs(refs: Iterable[Ref], stack: bool = False, *, timeout: float | None = None) -> Work:
    """Gives a list of all values, or one array with a new axis 0 if ``stack=True``."""
    found, stacked = _stored(refs), flag("stack", stack)
    return _combine("allgather", found, len(found), "sum", 0, stacked, not stacked, timeout)


@_takes_results_of_tasks
def reduce_scatter_refs(refs: Iterable[Ref], op: Any = "sum", *, timeout: float | None = None) -> Work:
    """Gives a list of what each rank would get from ``reduce_scatter`` over lists or evenly split arrays."""
    found = _stored(refs)
    return _combine("reduce_scatter", _parts(found), len(found), op, 0, False, True, timeout)


class _Nested(Work):
    """A work whose flat list of ranks x ranks values becomes a list of lists."""

    __slots__ = ("_ranks",)

    def __init__(self, native: _muster.Work, ranks: int) -> None:
        super().__init__(native, ("all_to_all", None, "", ""))
        self._ranks = ranks

    def result(self, timeout: float | None = None) -> Any:
        return self._nest(super().result(timeout))

    @property
    def ref(self) -> Any:
        return self._nest(super().ref)

    def _nest(self, flat: list[Any]) -> list[list[Any]]:
        return [flat[first : first + self._ranks] for first in range(0, len(flat), self._ranks)]


@_takes_results_of_tasks
def all_to_all_refs(refs: Iterable[Ref], *, timeout: float | None = None) -> Work:
    """Gives a list of the lists that each rank would get from ``all_to_all`` over lists or evenly split arrays."""
    found = _stored(refs)
    flat = _combine("all_to_all", _parts(found), len(found), "sum", 0, False, True, timeout)
    return _Nested(flat._native, len(found))
