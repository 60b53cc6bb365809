"""What holds an array, by name. For messages: it looks at every object of the interpreter."""

from __future__ import annotations

import gc
import sys
import types
from typing import Any

import numpy as np

_SHOWN = 4


def keepers_of(array: np.ndarray[Any, Any]) -> list[str]:
    """Names of what refers to the array, or to the array that it is a view of.

    As far as the garbage collector knows it: not a dict, for example, that has arrays and strings only.
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
    if isinstance(holder, types.FrameType):
        return None  # this function's callers
    if isinstance(holder, dict):
        key = next((key for key, value in list(holder.items()) if value is held), None)
        return _name_of_entry(holder, key) if key is not None else None
    if isinstance(holder, types.CellType):
        return "a function's closure"
    if isinstance(holder, np.ndarray):
        return "a view of it"
    try:
        attributes = object.__getattribute__(holder, "__dict__")  # runs no code of its class
    except AttributeError:
        attributes = {}
    key = next((key for key, value in list(attributes.items()) if value is held), None)
    return f"`{key}` of a {type(holder).__name__}" if key is not None else f"a {type(holder).__name__}"


def _name_of_entry(entries: dict[Any, Any], key: Any) -> str:
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", None) is entries:
            return f"`{key}` of module {module.__name__}"
    for owner in gc.get_referrers(entries):
        if not isinstance(owner, (types.FrameType, dict)) and getattr(owner, "__dict__", None) is entries:
            return f"`{key}` of a {type(owner).__name__}"
    return f"[{key!r}] of a dict"
