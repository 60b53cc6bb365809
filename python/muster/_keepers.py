"""Finds what holds an array, by name. Only for messages: it looks at every object of the interpreter."""

from __future__ import annotations

import gc
import sys
import types
from typing import Any

import numpy as np

from muster._words import a_type_of

_SHOWN = 4


def keepers_of(array: np.ndarray[Any, Any]) -> list[str]:
    """Returns names of what refers to the array, or to the array that it is a view of.

    Finds only what the garbage collector tracks. A dict of arrays and strings, for example, is not tracked.
    """
    found: list[str] = []
    held: Any = array
    while isinstance(held, np.ndarray):
        for holder in gc.get_referrers(held):
            name = _name(holder, held)
            if name is not None and name not in found:
                found.append(name)
        held = held.base
    return found[:_SHOWN]


def _name(holder: Any, held: Any) -> str | None:
    if _is(holder, types.FrameType):
        return None  # this function's callers
    if _is(holder, dict):
        key = next((key for key, value in list(dict.items(holder)) if value is held), None)
        return _name_of_entry(holder, key) if key is not None else None
    if _is(holder, types.CellType):
        return "a function's closure"
    if _is(holder, np.ndarray):
        return "a view of it"
    attributes = _attributes(holder)
    key = next((key for key, value in list(attributes.items()) if value is held), None)
    return f"`{key}` of {a_type_of(holder)}" if key is not None else a_type_of(holder)


def _is(value: Any, *kinds: type) -> bool:
    """Whether it is an instance. Unlike ``isinstance`` it does not call code of the value."""
    return issubclass(type(value), kinds)


def _attributes(owner: Any) -> dict[Any, Any]:
    """Returns the object's own attributes; empty if it has none. Runs no code of its class."""
    try:
        attributes = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return {}
    return attributes if isinstance(attributes, dict) else {}


def _name_of_entry(entries: dict[Any, Any], key: Any) -> str:
    for module in list(sys.modules.values()):
        if _attributes(module) is entries:
            return f"`{key}` of module {entries.get('__name__')}"
    for owner in gc.get_referrers(entries):
        if not _is(owner, types.FrameType, dict) and _attributes(owner) is entries:
            return f"`{key}` of {a_type_of(owner)}"
    return f"[{key!r}] of a dict"
