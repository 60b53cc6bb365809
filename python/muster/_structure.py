"""The parts of the structure's codec that Python does: pickles, and classes by their names."""

from __future__ import annotations

import collections
import dataclasses
import importlib
import io
import pickle
import sys
import types
from typing import Any

import numpy as np

from muster import _muster
from muster._words import a, a_type_of
from muster.errors import Invalid

_FACTORIES = {
    kind.__name__: kind for kind in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
}

loads = pickle.loads


class _Pickler(pickle.Pickler):
    """Refuses arrays: inside a constant they would silently be neither shared nor reduced."""

    constant: Any = None  #: what is pickled

    def reducer_override(self, value: Any) -> Any:
        is_array = hasattr(value, "__dlpack__") or hasattr(value, "__array__")
        if is_array and not isinstance(value, (type, np.generic, np.dtype)):
            raise _hidden_array(self.constant, value)
        return NotImplemented


def _hidden_array(holder: Any, array: Any) -> Invalid:
    attributes = getattr(holder, "__dict__", {})
    name = next((name for name, value in attributes.items() if value is array), None)
    where = f" as its .{name}" if name else ""
    return Invalid(
        f"an array is held by {a(label_of(type(holder)))}{where}, and Muster can't look into that",
        "nest arrays in dict, list, tuple, named tuple or dataclass",
    )


def dumps(value: Any) -> bytes:
    """Pickles a constant that is not plain data."""
    written = io.BytesIO()
    try:
        pickler = _Pickler(written)
        pickler.constant = value
        pickler.dump(value)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise Invalid(f"{a_type_of(value)} can't be stored: {error}", "return arrays, or a nesting of them") from error
    pickled = written.getvalue()
    if len(pickled) > _muster.constant_bytes_max:
        raise Invalid(
            f"a constant {type(value).__name__} takes {_muster.over_text(len(pickled), _muster.constant_bytes_max)}",
            "make it an array, for instance np.frombuffer(data, np.uint8)",
        )
    return pickled


def label_of(kind: type) -> str:
    """Returns the name of a class, for messages."""
    prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{prefix}{kind.__qualname__}"


def name_of(kind: type) -> tuple[str, str]:
    """Returns module and qualified name, by which every process finds the class."""
    if _find(kind.__module__, kind.__qualname__) is not kind:
        raise Invalid(
            f"{a(kind.__name__)} can't be stored: its class is not {kind.__qualname__} of module {kind.__module__}",
            "define the class at the top of a module",
        )
    return kind.__module__, kind.__qualname__


def _find(module: str, name: str) -> Any:
    """Returns what has that name in a module that is imported already. Runs none of its code, such as a ``__getattr__``
    of the module or of a class."""
    found: Any = sys.modules.get(module)
    if not isinstance(found, types.ModuleType):
        return None
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, (types.ModuleType, type)) else None
    return found


def rebuild(form: str, module: str, name: str, factory: Any, keys: list[Any], values: list[Any]) -> Any:
    """Makes an instance of a class with fields, or of a subclass of dict, list or tuple, as its maker had it."""
    kind: Any = importlib.import_module(module)
    for part in name.split("."):
        kind = getattr(kind, part)
    if form == "named tuple":
        return kind(*values)
    if form == "dataclass":
        made = object.__new__(kind)
        for field, value in zip(keys, values):
            object.__setattr__(made, field, value)
        return made
    if form == "tuple":
        return kind.__new__(kind, values)
    if form == "list":
        made = kind.__new__(kind)
        list.extend(made, values)
        return made
    if isinstance(factory, tuple):
        factory = getattr(importlib.import_module(factory[0]), factory[1])
    if issubclass(kind, collections.defaultdict):
        made = kind(factory)
    else:
        made = kind() if issubclass(kind, collections.OrderedDict) else kind.__new__(kind)
    return _fill(made, keys, values)


def _fill(made: Any, keys: list[Any], values: list[Any]) -> Any:
    """Stores the items without the subclass's own methods: these may do more than store them."""
    base: Any = collections.OrderedDict if isinstance(made, collections.OrderedDict) else dict
    for key, value in zip(keys, values):
        base.__setitem__(made, key, value)
    return made


def rebuild_as_data(form: str, module: str, name: str, factory: Any, keys: list[Any], values: list[Any]) -> Any:
    """Does the same for another user's value: imports nothing and runs no code of the class, such as ``__post_init__``.

    If this process has no such class, or a different one of that name, returns a plain dict, list or tuple.
    """
    kind = _find(module, name)
    try:
        made = _instance(form, kind, factory, keys, values) if isinstance(kind, type) and _is_harmless(kind) else None
    except TypeError:  # "object.__new__(X) is not safe", and the like
        made = None
    if made is not None:
        return made
    if form in ("dataclass", "dict"):
        return dict(zip(keys, values))
    return values if form == "list" else tuple(values)


def _is_harmless(kind: type) -> bool:
    """Whether it has no ``__del__``: that would run by itself, with fields that another user chose."""
    return not any("__del__" in vars(base) for base in kind.__mro__)


def _instance(form: str, kind: Any, factory: Any, keys: list[Any], values: list[Any]) -> Any:
    if form == "dataclass":
        return _dataclass(kind, dict(zip(keys, values)))
    if form == "named tuple":
        fields = _static(kind, "_fields")
        is_named = issubclass(kind, tuple) and isinstance(fields, tuple) and list(fields) == keys
        return tuple.__new__(kind, values) if is_named else None
    if form == "tuple":
        return tuple.__new__(kind, values) if issubclass(kind, tuple) else None
    if form == "list":
        if not issubclass(kind, list):
            return None
        made = list.__new__(kind)
        list.extend(made, values)
        return made
    if not issubclass(kind, dict):
        return None
    made = dict.__new__(kind)
    if isinstance(factory, tuple):
        known = _FACTORIES.get(factory[1]) if factory[0] == "builtins" else None
        if known is None or not issubclass(kind, collections.defaultdict):
            return None
        vars(collections.defaultdict)["default_factory"].__set__(made, known)
    elif factory is not None:
        return None
    return _fill(made, keys, values)


def _static(kind: type, name: str) -> Any:
    for base in kind.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return None


def _dataclass(kind: type, values: dict[str, Any]) -> Any:
    """Returns None if the fields aren't those of the class, or if only code of the class can set them."""
    fields = _static(kind, "__dataclass_fields__")
    if not isinstance(fields, dict) or {field for field in fields if _is_field(fields[field])} != set(values):
        return None
    made: Any = object.__new__(kind)
    for name, value in values.items():
        slot = _static(kind, name)
        if isinstance(slot, types.MemberDescriptorType):
            slot.__set__(made, value)
        else:
            object.__getattribute__(made, "__dict__")[name] = value
    return made


def _is_field(field: Any) -> bool:
    """Whether it is a field, not a ClassVar or an InitVar."""
    return getattr(field, "_field_type", None) is dataclasses._FIELD  # type: ignore[attr-defined]
