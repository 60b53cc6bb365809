"""The base of ``Work`` and ``Ref``: using one in place of its value is an error with a hint."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from muster._words import a_type_of
from muster.errors import Invalid

_ARITHMETIC = ["add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow"]
_BITS = ["lshift", "rshift", "and", "xor", "or"]
_COMPARISONS = ["lt", "le", "gt", "ge"]
_OTHERS = ["neg", "pos", "abs", "invert", "int", "float", "complex", "round", "len", "getitem", "setitem", "delitem"]


class Made(type):
    """For classes whose objects only this package makes: ``help()`` shows what users call, not how objects are made."""

    def __dir__(cls) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_")]

    @property
    def __signature__(cls) -> inspect.Signature:
        return inspect.Signature()


class StandIn(metaclass=Made):
    """It is not the value itself; ``_take`` names the call that returns the value.

    The operators are set below, where type checkers don't see them: to type checkers, too, using an operator is an
    error. Equality and hash are those of the object.
    """

    __slots__ = ()
    _take: ClassVar[str]

    def _misused(self, what: str = "") -> Invalid:
        is_no_value = f"is a {type(self).__name__.lstrip('_')}, not its value"
        return Invalid(f"{self!r} {what or is_no_value}", f"take that first: {self._take}")


def _attribute(self: StandIn, name: str) -> Any:
    message = f"{a_type_of(self)} has no attribute {name!r}"
    if not name.startswith("_"):  # libraries look for such names
        message += f" (hint: if its value has one, take that first: {self._take})"
    raise AttributeError(message)


def _refuse(self: StandIn, *_: Any) -> Any:
    raise self._misused()


def _refuse_or_leave(self: StandIn, other: Any, *_: Any) -> Any:
    """Lets NumPy and similar libraries handle it: they read a ``Ref`` as an array, and ask a ``Work`` for one."""
    if isinstance(other, np.generic) or hasattr(type(other), "__array_ufunc__"):
        return NotImplemented
    raise self._misused()


def _set(names: list[str], method: Callable[..., Any], prefix: str = "") -> None:
    for name in names:
        setattr(StandIn, f"__{prefix}{name}__", method)


_set(_ARITHMETIC + _BITS + _COMPARISONS, _refuse_or_leave)
_set(_ARITHMETIC + _BITS, _refuse, "r")
_set(_OTHERS, _refuse)
_set(["getattr"], _attribute)
