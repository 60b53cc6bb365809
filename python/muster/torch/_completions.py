"""Threads that complete works whose futures somebody waits for.

A caller waits for a future inside torch, so no thread of ours would read the outcome. One thread at a time watches all
works. It completes one that is over, and another thread goes on to watch meanwhile: callbacks of the future may wait.

Callbacks may begin ops, and all ranks must begin them in the same order. See ``_order.py`` for the order of works.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from muster import _runtime
from muster.errors import Error, QuotaExceeded
from muster.torch._order import Entry, Order

_A = TypeVar("_A")
_T = TypeVar("_T")
_log = logging.getLogger("muster")
_SLICE_MS = 50  # another thread may have read the outcomes, so the connection may stay silent

#: A callback that does nothing for so long, and waits for no op, may wait for another one, which is called then.
_PATIENCE_S = 10.0
#: So many threads at most. Callbacks of ops that were begun outside of callbacks take half of them.
_THREADS_MAX = 64
#: The interpreter waits so long for callbacks when it ends. It would cut them off, and torch aborts the process then.
_WAIT_AT_EXIT_S = 5.0


class _Completer:
    """The works that are watched, and the threads that complete them.

    A thread is idle while it watches or waits until it may. While works are watched there is always one, unless all
    threads that there may be are in callbacks.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a handler of signals may interrupt who has it, and end a group
        #: A callback has ended. It guards nothing, so a handler of signals may wait for it.
        self._ended = threading.Condition()
        self._order = Order()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._starting = 0  # one thread at most, which is idle soon
        self._watching = threading.Lock()
        self.here = threading.local()  # has the entry whose callback this thread is in, and whether it watches
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # wakes the thread that watches
        self._is_ending = False

    def watch(self, work: Any, op: Any, queue: Hashable) -> bool:
        """Returns False if the interpreter ends, so that no thread will complete the work."""
        parent: Entry | None = getattr(self.here, "entry", None)
        with self._lock:
            if self._is_ending and parent is None:
                return False
            if not self._has_idle() and (parent is not None or not self._threads):
                raise QuotaExceeded(
                    f"{self._order.running} callbacks of futures wait, and the system or Muster has no thread for more",
                    "wait for fewer futures in callbacks, or use async ops without them",
                )
            self._order.add(Entry(work, op, queue, parent), time.monotonic())
        self.wake()
        native = getattr(op, "_native", None)
        if native is not None:
            native.add_done_callback(self.wake)
        return True

    def end(self, wait_s: float) -> None:
        """Completes only what running callbacks wait for, and lets the threads end."""
        with self._lock:
            self._is_ending = True
            self._order.clear(keep=lambda entry: entry.parent is not None)
            threads = list(self._threads)
        until = time.monotonic() + wait_s
        for thread in threads:
            self.wake()
            thread.join(max(until - time.monotonic(), 0))

    def hand_over(self) -> None:
        """Lets another thread watch if this one does: it is in a callback of a ``muster.Work``, which may wait."""
        if getattr(self.here, "watches", False):
            with self._lock:
                self._idle -= 1
                self._stop_watching()
                self._has_idle()

    def wait_for(self, queue: Hashable, wait_s: float) -> None:
        """Waits until the works of a queue whose ops are over are completed. Does not wait in a callback."""
        self.hand_over()
        if getattr(self.here, "entry", None) is None:
            with self._ended:
                self._ended.wait_for(lambda: not self._has_callbacks(queue), wait_s)

    def _has_callbacks(self, queue: Hashable) -> bool:
        with self._lock:
            first, is_running = self._order.of(queue)
        return is_running or any(_is_over(entry.op) for entry in first)

    def close_in_child(self) -> None:
        ends, self._pipe = self._pipe, (-1, -1)  # ops of the parent may still wake it
        for end in ends:
            os.close(end)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # it is full, so the thread will wake
            os.write(self._pipe[1], b"!")

    def _has_idle(self) -> bool:
        """Starts a thread if none is idle and there may be one more. Must be called with the lock."""
        if self._idle + self._starting > 0:
            return True
        if len(self._threads) >= _THREADS_MAX:
            return False
        self._starting += 1
        try:
            threading.Thread(target=self._run, name="muster.torch", daemon=True).start()
        except BaseException as error:
            self._starting = 0
            if isinstance(error, (RuntimeError, MemoryError)):  # the system has no more
                return False
            raise
        return True

    def _run(self) -> None:
        # A signal may interrupt who starts a thread, so each counts itself.
        with self._lock:
            self._starting = 0
            self._threads.append(threading.current_thread())
            self._idle += 1
        while True:
            self._start_watching()
            entry = self._wait_for_next()
            self._stop_watching()
            if entry is None:
                return
            self.here.entry = entry
            _complete(entry.work)
            with self._lock:
                self._order.end(entry, time.monotonic())
                self._idle += 1
            with self._ended:
                self._ended.notify_all()
            del self.here.entry, entry
            self.wake()  # the next one of its queue may be over already

    def _start_watching(self) -> None:
        self._watching.acquire()
        self.here.watches = True

    def _stop_watching(self) -> None:
        self.here.watches = False
        self._watching.release()

    def _wait_for_next(self) -> Entry | None:
        """Waits for a work that may be completed, and takes it out. Returns None when the interpreter ends."""
        while True:
            try:
                if not self.here.watches:
                    with self._lock:
                        self._idle += 1
                    self._start_watching()
                for entry in self._candidates():
                    # What asks an op or the connection may call callbacks of others, and those watch().
                    is_over = _is_over(entry.op)
                    if not self.here.watches:
                        break
                    if is_over and self._begin(entry):
                        return entry
                if not self.here.watches:
                    continue
                if self._is_over():
                    self.wake()  # the next thread ends, too
                    return None
                self._sleep()
            except Exception:  # memory may be short
                _log.exception("a thread that completes works of torch goes on")
                time.sleep(_SLICE_MS / 1000)

    def _candidates(self) -> list[Entry]:
        with self._lock:
            may_begin_any = self._order.running < _THREADS_MAX // 2
            return self._order.candidates(time.monotonic() - _PATIENCE_S, with_parent=not may_begin_any)

    def _begin(self, entry: Entry) -> bool:
        """Takes the entry out, unless the end has."""
        with self._lock:
            if not self._order.is_next(entry):
                return False
            overtakes = self._order.begin(entry, time.monotonic())
            self._idle -= 1
            self._has_idle()
        if overtakes:
            _log.warning(
                "a callback of a future has waited %g s, and for no op: the next one is called. The ops of the two may"
                " now begin in another order than on other ranks",
                _PATIENCE_S,
            )
        return True

    def _is_over(self) -> bool:
        with self._lock:
            return self._is_ending and not self._order and self._order.running == 0

    def _sleep(self) -> None:
        """Sleeps until an outcome or a new work may have come; with nothing to watch, until there is a new work."""
        events = select.poll()
        events.register(self._pipe[0], select.POLLIN)
        connection = _runtime.current() if self._order else None
        # The daemon may have ended, which the works' outcomes say.
        with contextlib.suppress(Error, OSError, ValueError):
            if connection is not None:
                events.register(connection.event_fd(), select.POLLIN)
        events.poll(_SLICE_MS if self._order else None)
        with contextlib.suppress(BlockingIOError):
            os.read(self._pipe[0], 1 << 16)
        with contextlib.suppress(Error, OSError, ValueError):
            if connection is not None:
                connection.poll()


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
    except BaseException:
        _log.warning("%r could not be completed", work, exc_info=True)


_completer = _Completer()


def watch(work: Any, op: Any, queue: Hashable = None) -> bool:
    """Lets a thread complete ``work`` when ``op`` is over, and the works before it in the same ``queue`` are.

    Returns False if the interpreter ends, so that no thread will.

    Raises:
        QuotaExceeded: it is called by a callback, and too many of them wait.
    """
    return _completer.watch(work, op, queue)


def wait_for(queue: Hashable, wait_s: float) -> None:
    """Waits until the works of ``queue`` are completed, so long at most. Does not wait in a callback."""
    _completer.wait_for(queue, wait_s)


def hand_over() -> None:
    """Lets another thread watch if this one does, as it may wait now."""
    _completer.hand_over()


def in_op(wait: Callable[[_A], _T], op: _A) -> _T:
    """Returns ``wait(op)``. Meanwhile it is known that a callback which this thread is in waits for an op."""
    _completer.hand_over()
    entry: Entry | None = getattr(_completer.here, "entry", None)
    if entry is None:
        return wait(op)
    entry.in_ops += 1
    try:
        return wait(op)
    finally:
        entry.changed = time.monotonic()
        entry.in_ops -= 1


def _end() -> None:
    _completer.end(_WAIT_AT_EXIT_S)


def _begin_in_child() -> None:
    """A forked child has no such threads, and no works of its parent."""
    global _completer
    _completer.close_in_child()
    _completer = _Completer()


os.register_at_fork(after_in_child=_begin_in_child)
atexit.register(_end)
