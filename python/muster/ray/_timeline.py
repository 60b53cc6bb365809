"""Each op of this process is an event in ``ray timeline``: from its call until its outcome is known here.

Ray shows events of the threads that run the driver or a task. It drops those of threads that a program starts itself.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

from muster._work import Work, observe
from muster.ray import _hooks

_OPEN_MAX = 1000
_lock = threading.Lock()
#: The events of ops that are not over, with the session of Ray that they need at their end.
_open: dict[int, tuple[Any, bytes | None]] = {}


def began(title: str, when_over: Callable[[Callable[[], None]], Any]) -> None:
    """An op was called by a task or the driver. ``when_over`` is given what is to be called once at its end."""
    session = _hooks.session()
    if session is None or len(_open) >= _OPEN_MAX:
        return
    event = _hooks.begin_event("muster", title)
    with _lock:
        _open[id(event)] = (event, session)
    when_over(functools.partial(_over, id(event)))


def _observed(work: Work) -> None:
    began(work._title(), work._native.add_done_callback)


def _over(key: int) -> None:
    with _lock:
        event, session = _open.pop(key, (None, None))
    if event is None:
        return
    if _hooks.session() == session:
        _hooks.end_event(event)
    else:
        ctypes.pythonapi.Py_IncRef(
            ctypes.py_object(event)
        )  # Ray has been shut down, and its end would use what is gone


def end_all() -> None:
    """Must be called before Ray is shut down: an event that is not over would use what is gone then."""
    for key in list(_open):
        _over(key)


observe(_observed)
atexit.register(end_all)
