"""Turns the inputs of a group's ops into objects in the store."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from muster import _muster
from muster._ref import Ref, stored_of
from muster._words import a_type_of, count
from muster.errors import Invalid


def stored(group: _muster.Group, x: Any, timeout: float | None) -> _muster.Ref:
    """Returns ``x`` as a stored object. Copies it in if needed, within the op's timeout."""
    return stored_of(x, group.timeout if timeout is None else timeout)


def elements(group: _muster.Group, xs: Any, timeout: float | None) -> list[_muster.Ref]:
    """Stores the values of a list, one for each rank."""
    if isinstance(xs, Ref):
        made = xs._alive().parts()
    elif isinstance(xs, (list, tuple)):
        made = [stored(group, x, timeout) for x in xs]
    else:
        raise Invalid(
            f"a list of world_size={group.world_size} values is needed, not {a_type_of(xs)}",
            "give one value for each rank",
        )
    if len(made) != group.world_size:
        raise Invalid(
            f"got {count(len(made), 'value')} for {count(group.world_size, 'rank')}", "give one value for each rank"
        )
    return made


def parts(
    group: _muster.Group, xs: Any, timeout: float | None, splits: Sequence[int] | None = None, or_else: str = ""
) -> list[_muster.Ref]:
    """Returns one object for each rank: values of a list, or rows of one array, divided by ``splits`` or evenly."""
    if is_list(xs):
        return elements(group, xs, timeout)
    whole = stored(group, xs, timeout)
    if not whole.plain or not whole.shape(0):
        what = reprlib.repr(xs) if whole.plain else whole.structure
        raise Invalid(
            f"{what} can't be split along axis 0{', as it has no axes' if whole.plain else ''}",
            "give one array with an axis 0, or a list with a value for each rank",
        )
    rows = whole.shape(0)[0]
    if splits is None:
        if rows % group.world_size:
            raise Invalid(
                f"axis 0 of length {rows} can't be split evenly over {group.world_size} ranks",
                f"make it a multiple of world_size{or_else}",
            )
        splits = [rows // group.world_size] * group.world_size
    if len(splits) != group.world_size or sum(splits) != rows or min(splits) < 0:
        raise Invalid(
            f"splits={list(splits)} does not fit {count(group.world_size, 'rank')} and {count(rows, 'row')}",
            "give a number of rows for each rank; they add up to the length of axis 0",
        )
    made, first = [], 0
    for each in splits:
        made.append(whole.rows(first, each))
        first += each
    return made


def are_integers(numbers: Any) -> bool:
    return isinstance(numbers, Iterable) and all(isinstance(number, (int, np.integer)) for number in numbers)


def is_list(xs: Any) -> bool:
    """Whether it holds several values, not one array."""
    if isinstance(xs, Ref):
        return not xs._alive().plain
    return isinstance(xs, (list, tuple))
