"""Threads that complete works whose futures somebody waits for.

Who waits for a future waits in torch, so nobody would read the outcome. One thread at a time watches all works. When
one is over, another thread goes on to watch before this one completes it: what hangs on a future may wait for others.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import threading
from typing import Any

from muster import _runtime
from muster.errors import Error

_log = logging.getLogger("muster")
_SLICE_MS = 50  # another thread may have read the outcomes, so the connection may stay silent

#: As many callbacks may wait at a time for other futures.
_THREADS_MAX = 64

_lock = threading.Lock()
_numbers = itertools.count()
_watched: dict[int, tuple[Any, Any]] = {}
_pipe: tuple[int, int] | None = None  # what the thread that watches sleeps on, and what wakes it
_turn = threading.Lock()  # who has it watches
_threads = 0
_free = 0  # threads that watch, or wait to


def watch(work: Any, op: Any) -> None:
    """Lets a thread complete ``work`` when ``op`` is over."""
    global _pipe
    with _lock:
        _watched[next(_numbers)] = work, op
        if _pipe is None:
            _pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _start_if_none_is_free()
    _ring()
    native = getattr(op, "_native", None)
    if native is not None:
        native.add_done_callback(_ring)


def _start_if_none_is_free() -> None:
    """Must be called with the lock."""
    global _free, _threads
    if _free == 0 and _threads < _THREADS_MAX:
        _free, _threads = _free + 1, _threads + 1
        threading.Thread(target=_run, name="muster.torch", daemon=True).start()


def _ring() -> None:
    with contextlib.suppress(BlockingIOError):  # it is full, so the thread will wake
        if _pipe is not None:
            os.write(_pipe[1], b"!")


def _run() -> None:
    global _free
    while True:
        with _turn:
            work = _next_over()
        with _lock:
            _free -= 1
            _start_if_none_is_free()
        _complete(work)
        with _lock:
            _free += 1


def _next_over() -> Any:
    """Waits for a work that is over, and takes it out. What asks an op calls others' code, so it holds no lock."""
    assert _pipe is not None
    while True:
        with _lock:
            watched = list(_watched.items())
        for number, (work, op) in watched:
            if _is_over(op):
                with _lock:
                    del _watched[number]
                return work
        _wait(_pipe[0])
        with contextlib.suppress(BlockingIOError):
            os.read(_pipe[0], 1 << 16)


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
            if any(_is_over(op) for _, op in list(_watched.values())):
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
    """A forked child has no such threads, and no works of its parent."""
    global _free, _lock, _pipe, _threads, _turn
    for end in _pipe or ():
        os.close(end)
    _lock, _turn, _pipe = threading.Lock(), threading.Lock(), None
    _free = _threads = 0
    _watched.clear()


os.register_at_fork(after_in_child=_forget_in_child)
