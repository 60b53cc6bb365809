"""A thread that completes works whose futures somebody waits for.

Who waits for a future waits in torch, so nobody would read the outcome. The thread starts with the first future.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from typing import Any

from muster import _runtime
from muster.errors import Error

_log = logging.getLogger("muster")
_SLICE_MS = 50  # another thread may have read the outcomes, so the connection may stay silent

_lock = threading.Lock()
_watched: list[tuple[Any, Any]] = []
_pipe: tuple[int, int] | None = None  # what the thread sleeps on, and what wakes it


def watch(work: Any, op: Any) -> None:
    """Lets the thread complete ``work`` when ``op`` is over."""
    global _pipe
    with _lock:
        _watched.append((work, op))
        if _pipe is None:
            _pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            threading.Thread(target=_run, args=(_pipe[0],), name="muster.torch", daemon=True).start()
    _ring()
    native = getattr(op, "_native", None)
    if native is not None:
        native.add_done_callback(_ring)


def _ring() -> None:
    with contextlib.suppress(BlockingIOError):  # it is full, so the thread will wake
        if _pipe is not None:
            os.write(_pipe[1], b"!")


def _run(asleep: int) -> None:
    while True:
        _wait(asleep)
        with contextlib.suppress(BlockingIOError):
            os.read(asleep, 1 << 16)
        with _lock:
            over = [(work, _is_over(op)) for work, op in _watched]
            _watched[:] = [pair for pair, (_, is_over) in zip(_watched, over) if not is_over]
        for work, is_over in over:
            if is_over:
                _complete(work)


def _wait(asleep: int) -> None:
    """Sleeps until an outcome or a new work may have come; with nothing to watch, until there is a new work."""
    events = select.poll()
    events.register(asleep, select.POLLIN)
    if not _watched:
        events.poll()
        return
    # The daemon may have ended: the works' outcomes say so, and nobody here is to start another one.
    with contextlib.suppress(Error, OSError, ValueError):
        connection = _runtime.connection() if _runtime.is_attached() else None
        if connection is not None:
            events.register(connection.event_fd(), select.POLLIN)
            connection.poll()
            if any(_is_over(op) for _, op in list(_watched)):
                return
            events.poll(_SLICE_MS)
            connection.poll()
            return
    events.poll(_SLICE_MS)


def _is_over(op: Any) -> bool:
    """Also if it can't say so: then its result says why."""
    try:
        return bool(op.done())
    except Exception:
        return True


def _complete(work: Any) -> None:
    """This thread must not end: others wait for it."""
    try:
        work.complete()
    except Exception:
        _log.warning("%r could not be completed", work, exc_info=True)


def _forget_in_child() -> None:
    """A forked child has no such thread, and no works of its parent."""
    global _lock, _pipe
    for end in _pipe or ():
        os.close(end)
    _lock, _pipe = threading.Lock(), None
    _watched.clear()


os.register_at_fork(after_in_child=_forget_in_child)
