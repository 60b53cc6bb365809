"""Threads that complete works whose futures somebody waits for.

Who waits for a future waits in torch, so nobody would read the outcome. One thread at a time watches all works. It
completes one that is over, and another thread goes on to watch meanwhile: what hangs on a future may wait for others.

What hangs on a future may begin ops, and all ranks must begin them in the same order. So one work is completed after
the other, and those of a group in the order in which their futures were asked for. Works that a callback began itself
are one level deeper, and each level has a turn of its own: so the callback may wait for them.
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
#: As many callbacks may wait at a time.
_THREADS_MAX = 64
#: The interpreter waits as long for callbacks when it ends. It would cut them off, and torch aborts the process then.
_WAIT_AT_EXIT_S = 1.0


@dataclasses.dataclass(eq=False)
class _Watched:
    work: Any
    op: Any
    line: Hashable  # works with the same one are completed in order; None has no order
    level: int  # how many callbacks are around the call that asked for the future


@dataclasses.dataclass
class _Level:
    running: int = 0  # works that are being completed
    changed: float = 0.0  # when one began, or an op that it began itself did or was over


class _Completer:
    """The works that are watched, and the threads that complete them.

    A thread is free while it watches or waits for its turn to. There is always a free one while works are watched,
    unless all threads that there may be are in callbacks.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: list[_Watched] = []
        self._levels: dict[int, _Level] = collections.defaultdict(_Level)
        self._threads: list[threading.Thread] = []
        self._free = 0
        self._turn = threading.Lock()  # who has it watches
        self._here = threading.local()  # has the level of calls of this thread
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # what the thread that watches sleeps on, and what wakes it
        self._is_short = False  # of threads, and that was said
        self._is_ending = False

    def watch(self, work: Any, op: Any, line: Hashable) -> None:
        level: int = getattr(self._here, "level", 0)
        with self._lock:
            self._watched.append(_Watched(work, op, line, level))
            self._levels[level - 1].changed = time.monotonic()
            self._let_one_be_free()
        self._ring()
        native = getattr(op, "_native", None)
        if native is not None:
            native.add_done_callback(self._ring)

    def end(self, wait_s: float) -> None:
        """Completes no more works, and lets the threads end."""
        with self._lock:
            self._is_ending = True
            self._watched.clear()
            threads = list(self._threads)
        self._ring()
        until = time.monotonic() + wait_s
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0))

    def close_in_child(self) -> None:
        ends, self._pipe = self._pipe, (-1, -1)  # ops of the parent may still ring
        for end in ends:
            os.close(end)

    def _let_one_be_free(self) -> None:
        """Must be called with the lock."""
        if self._free or self._is_ending:
            return
        thread = threading.Thread(target=self._run, name="muster.torch", daemon=True)
        try:
            if len(self._threads) == _THREADS_MAX:
                raise RuntimeError(f"{_THREADS_MAX} callbacks of futures wait at a time")
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                raise
            if not self._is_short:
                _log.error("no other callback of a future is called until one of them is over: %s", error)
            self._is_short = True
            return
        self._threads.append(thread)
        self._free += 1

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # it is full, so the thread will wake
            os.write(self._pipe[1], b"!")

    def _run(self) -> None:
        while True:
            with self._turn:
                each = self._wait_for_next()
            if each is None:
                return
            with self._lock:
                self._free -= 1
                self._let_one_be_free()
            self._here.level = each.level + 1
            _complete(each.work)
            with self._lock:
                self._free += 1
                self._is_short = False
                self._levels[each.level].running -= 1
                self._levels[each.level].changed = self._levels[each.level - 1].changed = time.monotonic()
            del each
            self._ring()  # the next one of this level may be over already

    def _wait_for_next(self) -> _Watched | None:
        """Waits for a work that may be completed, and takes it out. Returns None when the interpreter ends."""
        while True:
            each = self._next()
            with self._lock:
                if self._is_ending:
                    return None
                if each is not None:
                    self._watched.remove(each)
                    level = self._levels[each.level]
                    level.running, level.changed = level.running + 1, time.monotonic()
                    return each
            self._sleep()
            with contextlib.suppress(BlockingIOError):
                os.read(self._pipe[0], 1 << 16)

    def _next(self) -> _Watched | None:
        """Finds a work that may be completed. What asks an op calls others' code, so no lock is held."""
        with self._lock:
            watched = list(self._watched)
            levels = {each.level for each in watched}
            busy = {level for level in levels if self._is_busy(level, levels)}
        waiting: set[tuple[int, Hashable]] = set()
        for each in watched:
            place = each.level, each.line
            if each.level in busy or place in waiting:
                continue
            if _is_over(each.op):
                return each
            if each.line is not None:
                waiting.add(place)
        return None

    def _is_busy(self, level: int, with_works: set[int]) -> bool:
        """Whether a callback of this level goes on that waits for nothing, or for ops of its own."""
        found = self._levels[level]
        if found.running == 0:
            return False
        is_recent = time.monotonic() - found.changed < _PATIENCE_S
        return is_recent or level + 1 in with_works or self._is_busy(level + 1, with_works)

    def _sleep(self) -> None:
        """Sleeps until an outcome or a new work may have come; with nothing to watch, until there is a new work."""
        events = select.poll()
        events.register(self._pipe[0], select.POLLIN)
        if not self._watched:
            events.poll()
            return
        # The daemon may have ended: the works' outcomes say so, and nobody here is to start another one.
        with contextlib.suppress(Error, OSError, ValueError):
            connection = _runtime.connection() if _runtime.is_attached() else None
            if connection is not None:
                events.register(connection.event_fd(), select.POLLIN)
                connection.poll()
                if self._next() is not None:
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


_completer = _Completer()


def watch(work: Any, op: Any, line: Hashable = None) -> None:
    """Lets a thread complete ``work`` when ``op`` is over, and the works before it with the same ``line`` are.

    Raises:
        RuntimeError: the system has no thread for it.
    """
    _completer.watch(work, op, line)


def _end() -> None:
    _completer.end(_WAIT_AT_EXIT_S)


def _begin_in_child() -> None:
    """A forked child has no such threads, and no works of its parent."""
    global _completer
    _completer.close_in_child()
    _completer = _Completer()


os.register_at_fork(after_in_child=_begin_in_child)
atexit.register(_end)
