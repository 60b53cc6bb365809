"""Threads that complete works whose futures somebody waits for.

A caller waits for a future inside torch, so no thread of ours would read the outcome. One thread at a time watches all
works. It completes one that is over, and another thread goes on to watch meanwhile: callbacks of the future may wait.

Callbacks may begin ops, and all ranks must begin them in the same order. See ``_order.py`` for the order of works.

Python calls a handler of signals in the main thread, anywhere, and the handler may wait for a future. So only our own
threads take locks here. Others leave what they want in a queue.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Hashable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from muster import _runtime, _work
from muster.errors import Error, QuotaExceeded
from muster.torch._order import Entry, Order

_T = TypeVar("_T")
_log = logging.getLogger("muster")
_SLICE_MS = 50  # another thread may have read the outcomes, so the connection may stay silent

#: A callback that does nothing for so long, and waits for no op, may wait for another one, which is called then.
_PATIENCE_S = 10.0
#: So many threads at most. Callbacks of ops that were begun outside of callbacks take half of them.
_THREADS_MAX = 64
#: The interpreter waits so long for callbacks when it ends. It would cut them off, and torch aborts the process then.
_WAIT_AT_EXIT_S = 5.0


@dataclasses.dataclass(eq=False)
class _Question:
    """Somebody waits until those works of a queue are completed whose ops are over."""

    queue: Hashable
    answer: SimpleQueue[None] = dataclasses.field(default_factory=SimpleQueue)


class _Completer:
    """The works that are watched, and the threads that complete them.

    A thread is idle while it watches or waits until it may. While works are watched there is always one, unless all
    threads that there may be are in callbacks.
    """

    def __init__(self) -> None:
        # ---- for all threads ----
        self._asked: SimpleQueue[Entry | _Question] = SimpleQueue()
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # wakes the thread that watches
        self._has_threads = False
        self._is_ending = False
        #: Has the entry whose callback this thread is in. A thread of ours also has whether it watches.
        self.here = threading.local()
        # ---- for threads of ours ----
        self._lock = threading.Lock()
        self._order = Order()
        self._questions: list[_Question] = []
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._starting = 0  # one thread at most, which is idle soon
        self._watching = threading.Lock()

    # ---- what others call ----

    def watch(self, work: Any, op: Any, queue: Hashable) -> bool:
        """Returns False if the interpreter ends, so that no thread will complete the work."""
        parent: Entry | None = getattr(self.here, "entry", None)
        if self._is_ending and parent is None:
            return False
        self._make_sure_of_a_thread()
        self._asked.put(Entry(work, op, queue, parent))
        self.wake()
        native = getattr(op, "_native", None)
        if native is not None:
            native.write_when_done(self._pipe[1])
        return True

    def _make_sure_of_a_thread(self) -> None:
        has_one = True
        if hasattr(self.here, "watches"):  # this one is in a callback, and may wait
            with self._lock:
                has_one = self._has_idle()
        elif not self._has_threads:  # a second one does no harm
            has_one = self._has_threads = self._start()
        if has_one:
            return
        if not self._has_threads:
            raise QuotaExceeded("the system has no thread that completes futures", "wait for the work itself")
        raise QuotaExceeded(
            f"{self._order.running} callbacks of futures wait, and the system or Muster has no thread for more",
            "wait for fewer futures in callbacks, or use async ops without them",
        )

    def wait_for(self, queue: Hashable, wait_s: float) -> None:
        """Waits until the works of a queue whose ops are over are completed. Does not wait in a callback."""
        if not self._has_threads or self._is_ending or getattr(self.here, "entry", None) is not None:
            return
        question = _Question(queue)
        self._asked.put(question)
        self.wake()
        with contextlib.suppress(Empty):
            question.answer.get(timeout=wait_s)

    def end(self, wait_s: float) -> None:
        """Completes only what running callbacks wait for, and lets the threads end."""
        self._is_ending = True
        until = time.monotonic() + wait_s
        for thread in list(self._threads):
            self.wake()
            thread.join(max(until - time.monotonic(), 0))

    def hand_over(self) -> None:
        """Lets another thread watch if this one does: it calls a callback of a ``muster.Work``, which may wait."""
        if getattr(self.here, "watches", False):
            with self._lock:
                self._idle -= 1
                self._stop_watching()
                self._has_idle()

    def close_in_child(self) -> None:
        ends, self._pipe = self._pipe, (-1, -1)
        for end in ends:
            os.close(end)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # it is full, so the thread will wake
            os.write(self._pipe[1], b"!")

    # ---- the threads ----

    def _has_idle(self) -> bool:
        """Starts a thread if none is idle. Returns False if there is none to be had. Must be called with the lock."""
        if self._idle + self._starting > 0:
            return True
        self._starting = 1
        if self._start():
            return True
        self._starting = 0
        return False

    def _start(self) -> bool:
        """Returns False if there may be no more threads, or the system has no more."""
        if len(self._threads) >= _THREADS_MAX:
            return False
        try:
            threading.Thread(target=self._run, name="muster.torch", daemon=True).start()
        except (RuntimeError, MemoryError):
            return False
        return True

    def _run(self) -> None:
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
                self._take_what_was_asked()
                for entry in self._candidates():
                    # To ask an op or the connection may call a callback of others, before which this hands over.
                    is_over = _is_over(entry.op)
                    if not self.here.watches:
                        break
                    if is_over and self._begin(entry):
                        return entry
                if self.here.watches and self._questions:
                    self._answer()
                if not self.here.watches:
                    continue
                if self._has_ended():
                    self.wake()  # the next thread ends, too
                    return None
                self._sleep()
            except Exception:  # memory may be short
                _log.exception("a thread that completes works of torch goes on")
                time.sleep(_SLICE_MS / 1000)

    def _take_what_was_asked(self) -> None:
        while not self._asked.empty():  # only the thread that watches takes something
            asked = self._asked.get()
            with self._lock:
                if isinstance(asked, Entry):
                    self._order.add(asked, time.monotonic())
                else:
                    self._questions.append(asked)

    def _answer(self) -> None:
        """Answers those who ask for a queue whose works that are over are completed."""
        with self._lock:
            asked = [(question, *self._order.heads_of(question.queue)) for question in self._questions]
        answered = []
        for question, heads, is_running in asked:
            if not is_running and not any(_is_over(entry.op) for entry in heads):
                question.answer.put(None)
                answered.append(question)
        with self._lock:
            self._questions = [question for question in self._questions if question not in answered]

    def _candidates(self) -> list[Entry]:
        with self._lock:
            if self._is_ending:
                self._order.clear(keep=lambda entry: entry.parent is not None and entry.parent.is_running)
            may_begin_any = self._order.running < _THREADS_MAX // 2
            return self._order.candidates(time.monotonic() - _PATIENCE_S, only_children=not may_begin_any)

    def _begin(self, entry: Entry) -> bool:
        """Takes the entry out, unless another thread has, or the end."""
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

    def _has_ended(self) -> bool:
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
_work.before_callbacks(lambda: _completer.hand_over())


def watch(work: Any, op: Any, queue: Hashable = None) -> bool:
    """Lets a thread complete ``work`` when ``op`` is over, and the works before it in the same ``queue`` are.

    Returns False if the interpreter ends, so that no thread will.

    Raises:
        QuotaExceeded: it is called by a callback, and too many of them wait; or the system has no thread.
    """
    return _completer.watch(work, op, queue)


def wait_for(queue: Hashable, wait_s: float) -> None:
    """Waits ``wait_s`` seconds at most until those works of ``queue`` are completed whose ops are over.

    Does not wait in a callback.
    """
    _completer.wait_for(queue, wait_s)


def in_op(wait: Callable[[], _T]) -> _T:
    """Returns ``wait()``. Meanwhile it is known that a callback which this thread is in waits for an op."""
    entry: Entry | None = getattr(_completer.here, "entry", None)
    if entry is None:
        return wait()
    entry.in_ops += 1
    try:
        return wait()
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
