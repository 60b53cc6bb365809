"""Threads that complete works whose futures somebody waits for.

Who waits for a future waits in torch, so nobody would read the outcome. One thread at a time watches all works. It
completes one that is over, and another thread goes on to watch meanwhile: what hangs on a future may wait for others.

What hangs on a future may begin ops, and all ranks must begin them in the same order. So one work is completed after
the other, and those of a group in the order in which their futures were asked for. Works that a callback began itself
are a depth of their own, which has its own turn: the callback may wait for them.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import dataclasses
import logging
import os
import select
import threading
import time
from collections.abc import Hashable
from typing import Any

from muster import _runtime
from muster.errors import Error

_log = logging.getLogger("muster")
_SLICE_MS = 50  # another thread may have read the outcomes, so the connection may stay silent

#: A callback that takes longer, and waits for no op of its own, may wait for another callback: that one goes on then.
_PATIENCE_S = 1.0
#: As many callbacks may wait for each other.
_THREADS_MAX = 64
#: The interpreter waits as long for callbacks when it ends. A thread that is cut off in one ends the process by abort.
_WAIT_AT_EXIT_S = 1.0


@dataclasses.dataclass(eq=False)
class _Watched:
    work: Any
    op: Any
    line: Hashable  # works with the same one are completed in order; None has no order
    depth: int  # of callbacks around the call that asked for the future


_lock = threading.Lock()
_watched: list[_Watched] = []
_running: collections.Counter[int] = collections.Counter()  # by depth, works that are being completed
_changed: dict[int, float] = {}  # by depth, when a completion began, or something that it began did or was over
_threads: list[threading.Thread] = []
_free = 0  # threads that watch, or wait to
_pipe: tuple[int, int] | None = None  # what the thread that watches sleeps on, and what wakes it
_turn = threading.Lock()  # who has it watches
_here = threading.local()  # has ``depth`` in the threads of this module
_is_full = False  # all threads are in callbacks, and that was said
_is_ending = False


def watch(work: Any, op: Any, line: Hashable = None) -> None:
    """Lets a thread complete ``work`` when ``op`` is over, and the works before it with the same ``line`` are."""
    global _pipe
    depth = getattr(_here, "depth", 0)
    with _lock:
        _watched.append(_Watched(work, op, line, depth))
        _changed[depth - 1] = time.monotonic()
        if _pipe is None:
            _pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _start_if_none_is_free()
    _ring()
    native = getattr(op, "_native", None)
    if native is not None:
        native.add_done_callback(_ring)


def _start_if_none_is_free() -> None:
    """Must be called with the lock."""
    global _free, _is_full
    if _free or _is_ending:
        return
    if len(_threads) == _THREADS_MAX:
        if not _is_full:
            _log.error("%d callbacks of futures wait, so no other is called until one of them is over", _THREADS_MAX)
        _is_full = True
        return
    _free += 1
    thread = threading.Thread(target=_run, name="muster.torch", daemon=True)
    _threads.append(thread)
    thread.start()


def _ring() -> None:
    with contextlib.suppress(BlockingIOError):  # it is full, so the thread will wake
        if _pipe is not None:
            os.write(_pipe[1], b"!")


def _run() -> None:
    global _free, _is_full
    while True:
        with _turn:
            each = _wait_for_next()
        if each is None:
            return
        with _lock:
            _free -= 1
            _start_if_none_is_free()
        _here.depth = each.depth + 1
        _complete(each.work)
        with _lock:
            _free += 1
            _is_full = False
            _running[each.depth] -= 1
            _changed[each.depth] = _changed[each.depth - 1] = time.monotonic()
        del each
        _ring()  # the next one of this depth may be over already


def _wait_for_next() -> _Watched | None:
    """Waits for a work that may be completed, and takes it out. Returns None when the interpreter ends."""
    assert _pipe is not None
    while not _is_ending:
        each = _next()
        if each is not None:
            with _lock:
                if _is_ending:
                    break
                _watched.remove(each)
                _running[each.depth] += 1
                _changed[each.depth] = time.monotonic()
            return each
        _wait(_pipe[0])
        with contextlib.suppress(BlockingIOError):
            os.read(_pipe[0], 1 << 16)
    return None


def _next() -> _Watched | None:
    """Finds a work that may be completed. What asks an op calls others' code, so no lock is held."""
    with _lock:
        watched = list(_watched)
        depths = {each.depth for each in watched}
        busy = {depth for depth in depths if _is_busy(depth, depths)}
    waiting: set[tuple[int, Hashable]] = set()
    for each in watched:
        place = each.depth, each.line
        if each.depth in busy or place in waiting:
            continue
        if _is_over(each.op):
            return each
        if each.line is not None:
            waiting.add(place)
    return None


def _is_busy(depth: int, depths: set[int]) -> bool:
    """Whether a callback of this depth goes on, and waits for nothing, or for ops of its own."""
    if not _running[depth]:
        return False
    is_recent = time.monotonic() - _changed[depth] < _PATIENCE_S
    return is_recent or depth + 1 in depths or _is_busy(depth + 1, depths)


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
            if _next() is not None:
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


def _end() -> None:
    """Lets the threads end before the interpreter does, and completes no more works."""
    global _is_ending
    with _lock:
        _is_ending = True
        _watched.clear()
        threads = list(_threads)
    _ring()
    until = time.monotonic() + _WAIT_AT_EXIT_S
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))


def _forget_in_child() -> None:
    """A forked child has no such threads, and no works of its parent."""
    global _free, _here, _is_full, _lock, _pipe, _turn
    for end in _pipe or ():
        os.close(end)
    _lock, _turn, _here, _pipe, _free = threading.Lock(), threading.Lock(), threading.local(), None, 0
    _is_full = False
    _watched.clear()
    _running.clear()
    _changed.clear()
    _threads.clear()


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_end)
