"""Handles calls of a group that raise before their input is there."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from muster import _muster
from muster.errors import Error

if TYPE_CHECKING:
    from typing import TypeVar

    from typing_extensions import Concatenate, ParamSpec

    from muster._group import Group

    _P = ParamSpec("_P")
    _R = TypeVar("_R")

_WRONG_ARGUMENT = (TypeError, ValueError, OverflowError)


def takes_its_place(method: Callable[Concatenate[Group, _P], _R]) -> Callable[Concatenate[Group, _P], _R]:
    """Makes a call that raises before its input is there take its place among the group's ops, and fail on every rank.

    Otherwise this rank's next call would meet the others' present one.
    """

    @functools.wraps(method)
    def call(self: Group, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        calls = _muster.calls_of_thread()
        try:
            return method(self, *args, **kwargs)
        except BaseException as error:
            if _muster.calls_of_thread() == calls:
                forfeit(self, method, error, args, kwargs)
            raise

    return call


def forfeit(
    group: Group, method: Callable[..., Any], error: BaseException, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    kind = method.__name__
    try:
        given = inspect.signature(method).bind_partial(group, *args, **kwargs).arguments
    except TypeError:  # too many arguments, or unknown ones
        given = {}
    pairwise = kind in ("send", "recv")
    peer, tag = (given.get("dst" if kind == "send" else "src", 0), given.get("tag", 0)) if pairwise else (0, 0)
    key = given.get("key", "") if kind != "split" else ""
    code = error.code if isinstance(error, Error) else "Invalid" if isinstance(error, _WRONG_ARGUMENT) else "Error"
    message = error.message if isinstance(error, Error) else f"{type(error).__name__}: {error}"
    message = message.encode(errors="backslashreplace").decode()
    # A key or peer of the wrong kind can't name a place in the order.
    with contextlib.suppress(TypeError, UnicodeError):
        group._native.forfeit(_muster.kinds[kind], peer, tag, key, code, message)
