"""Ops over results of tasks that may still run: an op starts when the last of them is there."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import math
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

import ray

from muster import _muster
from muster._ref import Ref
from muster._words import a_type_of, count
from muster._work import Work, _settle, _tell
from muster.errors import DaemonRestarted, DaemonUnavailable, Invalid, ObjectLost, Timeout
from muster.ray import _cluster, _hooks, _recovery, _steps, _timeline, _transport
from muster.ray._refs import LostRef

#: Calls ops that have all that they need.
_starters = concurrent.futures.ThreadPoolExecutor(8, "muster-ray-op")
#: Submits tasks again. That may take a while, if a daemon has to be started.
_recoverers = concurrent.futures.ThreadPoolExecutor(8, "muster-ray-again")
_LOOK_S = 1.0
#: Those that somebody may wait for.
_laters: weakref.WeakSet[Later] = weakref.WeakSet()
_laters_lock = threading.Lock()
_SOON_S = 0.005


def is_pending(value: Any) -> bool:
    return isinstance(value, ray.ObjectRef)


def _is_lost(value: Any) -> bool:
    """Whether this came of a task whose result, or an input, was lost."""
    return is_pending(value) or isinstance(value, LostRef)


class Later(Work):
    """An op over results of tasks. What fails it: a task that failed, or the op itself."""

    __slots__ = ("_awaited", "_lock", "_name", "_session", "_tasks", "_values", "_waiting", "_work")

    def __init__(self, name: str, refs: Sequence[Any], start: Callable[[list[Ref]], Work]) -> None:
        self._name = name
        self._values: list[Any] = list(refs)
        self._work: concurrent.futures.Future[Work] = concurrent.futures.Future()
        self._lock = threading.Lock()
        self._session = _hooks.session()
        self._tasks = {index: ref for index, ref in enumerate(refs) if is_pending(ref)}
        self._waiting = len(self._tasks)
        self._awaited = list(dict.fromkeys(self._tasks.values()))
        with _laters_lock:
            _laters.add(self)
        # On this thread, which Ray knows. The op is called on another one.
        _timeline.began(f"{name} of results of tasks", self._when_over)
        carried = {index: task for index, task in self._tasks.items() if _transport.carries(task)}
        for index, task in self._tasks.items():
            if index not in carried:
                task.future().add_done_callback(functools.partial(self._has_come, index, start))
        if carried:
            threading.Thread(target=self._fetch, args=(carried, start), name="muster-ray-fetch", daemon=True).start()

    def _when_over(self, call: Callable[[], Any]) -> None:
        """Calls without this work as an argument: what a work keeps until somebody waits must not keep the work."""

        def started(future: concurrent.futures.Future[Work]) -> None:
            if future.exception() is not None:
                call()
            else:
                future.result()._native.add_done_callback(call)

        self._work.add_done_callback(started)

    def _has_come(self, index: int, start: Callable[[list[Ref]], Work], future: Any) -> None:
        """Called on a thread of Ray's that must not wait."""
        error = future.exception()
        future.object_ref = None  # Ray may keep the future for a while, and with it the result
        self._arrived(index, start, error, None if error is not None else future.result())

    def _fetch(self, tasks: dict[int, ray.ObjectRef], start: Callable[[list[Ref]], Work]) -> None:
        """Waits for results that hold tensors. Ray would fetch those on its thread that must not wait."""
        try:
            self._fetch_all(tasks, start)
        except Exception as error:  # Ray has been shut down, for instance
            self._arrived(next(iter(tasks)), start, error, None)

    def _fetch_all(self, tasks: dict[int, ray.ObjectRef], start: Callable[[list[Ref]], Work]) -> None:
        indices: dict[ray.ObjectRef, list[int]] = {}
        for index, task in tasks.items():
            indices.setdefault(task, []).append(index)
        while indices and self._waiting > 0:
            # Now and then it looks whether another task has failed meanwhile.
            ready, _ = ray.wait(list(indices), num_returns=1, timeout=_LOOK_S)
            for task in ready:
                value, error = _fetched(task)
                for index in indices.pop(task):
                    self._arrived(index, start, error, value)

    def _arrived(self, index: int, start: Callable[[list[Ref]], Work], error: Any, value: Any) -> None:
        with self._lock:
            if self._waiting < 0:
                return
            self._waiting -= 1
            if error is None:
                self._values[index] = value
            failed = error is not None and not _recovery.is_loss(error)
            if self._waiting and not failed:
                return
            self._waiting = -1  # whatever else arrives changes nothing
        if failed:
            _starters.submit(self._fail, error)
        else:
            _starters.submit(self._begin, start)

    def _fail(self, error: BaseException) -> None:
        self._values, self._tasks, self._awaited = [], {}, []
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # it was abandoned
            self._work.set_exception(error)

    def abandon(self) -> None:
        """Ray has been shut down: nothing that the op waits for will come."""
        with self._lock:
            self._waiting = -1
        self._fail(
            Invalid(f"Ray was shut down before {self._name} had begun", "take the result before muster.ray.shutdown()")
        )

    def _begin(self, start: Callable[[list[Ref]], Work]) -> None:
        _steps.run_on(_recoverers, self._starting(start), self._has_started, self._fail, self._waits)

    def _waits(self, wait: Any) -> None:
        self._awaited = [wait.ref] if isinstance(wait, _steps.Result) else []

    def _starting(self, start: Callable[[list[Ref]], Work]) -> _steps.Steps[Work]:
        """Calls the op. Results that are lost are made again first."""
        lost = {index: task for index, task in self._tasks.items() if _is_lost(self._values[index])}
        if not lost:
            try:
                return self._call(start)
            except (DaemonRestarted, DaemonUnavailable, ObjectLost):
                lost = self._tasks  # they were here
        yield _steps.Pause(0)  # the thread that calls ops has others to call
        yield from self._recovering(lost)
        try:
            return self._call(start)
        except (DaemonRestarted, DaemonUnavailable, ObjectLost):
            pass
        yield from self._recovering(self._tasks)
        return self._call(start)

    def _recovering(self, tasks: dict[int, ray.ObjectRef]) -> _steps.Steps[None]:
        carried = [index for index, task in tasks.items() if _transport.carries(task)]
        for index in carried:
            self._values[index] = _transport.ref_of(tasks[index])  # what it carries is not made again
        made = [index for index in tasks if index not in carried]
        values = yield from _steps.together([_recovery.settling(tasks[index]) for index in made])
        for index, value in zip(made, values):
            self._values[index] = value

    def _call(self, start: Callable[[list[Ref]], Work]) -> Work:
        for value in self._values:
            if not isinstance(value, Ref):
                raise Invalid(
                    f"a task returned {a_type_of(value)}, not a muster.Ref",
                    "mark its function: @muster.collective_input",
                )
        return start(self._values)

    def _has_started(self, work: Work) -> None:
        self._values, self._tasks, self._awaited = [], {}, []
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._work.set_result(work)

    def _started(self, timeout: float | None) -> Work:
        """Waits for the tasks."""
        limit = _muster.seconds(timeout)
        until = math.inf if limit is None else time.monotonic() + limit
        while not self._is_there(max(min(until - time.monotonic(), _LOOK_S), 0)):
            if _hooks.session() != self._session:
                self.abandon()
            elif time.monotonic() >= until:
                raise Timeout(
                    f"{self._name} waited {timeout} s for {count(max(self._waiting, 0), 'task')}",
                    "wait longer, or look at the tasks: ray list tasks",
                )
        return self._work.result()

    def _is_there(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        if not _is_done(self._work, min(seconds, _SOON_S)):
            self._lend_cpu(max(until - time.monotonic(), 0))
        return _is_done(self._work, max(until - time.monotonic(), 0))

    def _lend_cpu(self, seconds: float) -> bool:
        awaited = self._awaited
        if not awaited or not _hooks.lends_its_cpu():
            return False
        _, rest = ray.wait(awaited, num_returns=len(awaited), timeout=seconds, fetch_local=False)
        return bool(rest)

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the tasks and the op, ``timeout`` seconds for each, and returns the value.

        Raises:
            Timeout: that took too long; the op goes on.
            ray.exceptions.RayTaskError: a task failed.
            Mismatch, Invalid, OutOfMemory, ObjectLost: the op's outcome.
        """
        return self._started(timeout).result(timeout)

    @property
    def ref(self) -> Any:
        """Waits for the result and returns it as a ``Ref`` (or a list of them)."""
        return self._started(None).ref

    def done(self) -> bool:
        """Whether the op is over, well or not. Never blocks."""
        if not self._work.done():
            return False
        return self._work.exception() is not None or self._work.result().done()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the op is over, well or not. Returns False if ``timeout`` seconds pass first."""
        try:
            return self._started(timeout).wait(timeout)
        except Timeout:
            return self.done()
        except Exception:
            return True

    def exception(self, timeout: float | None = None) -> Any:
        """Waits like ``result``. Returns the error of a task or of the op, or None."""
        try:
            return self._started(timeout).exception(timeout)
        except Timeout as error:
            if not self.done():
                raise
            return error
        except Exception as error:
            return error

    def add_done_callback(self, callback: Callable[[Work], Any]) -> None:
        """Calls ``callback(self)`` once when the op is over."""
        if not callable(callback):
            raise Invalid(f"callback={callback!r} can't be called", "give a function of one argument, the work")

        def started(future: concurrent.futures.Future[Work]) -> None:
            if future.exception() is not None:
                callback(self)
            else:
                future.result().add_done_callback(lambda _: callback(self))

        self._work.add_done_callback(started)

    def remove_done_callback(self, callback: Callable[[Work], Any]) -> int:
        raise Invalid(
            "an op over results of tasks can't forget callbacks", "let the callback look whether it is needed"
        )

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._work.done():
            # Not asyncio.wrap_future(): who stops waiting does not cancel the op.
            loop = asyncio.get_running_loop()
            over = loop.create_future()
            self._work.add_done_callback(lambda _: _tell(loop, _settle, over))
            looks = loop.create_task(self._look_for_ray())
            try:
                yield from over.__await__()
            finally:
                looks.cancel()
        return (yield from self._work.result().__await__())

    async def _look_for_ray(self) -> None:
        while _hooks.session() == self._session:
            await asyncio.sleep(_LOOK_S)
        self.abandon()

    def __repr__(self) -> str:
        if not self.done():
            return f"<muster.Work: {self._name} of results of tasks, pending>"
        error = self.exception()
        return f"<muster.Work: {self._name} of results of tasks, {type(error).__name__ if error else 'done'}>"


@_cluster.at_shutdown
def _abandon_all() -> None:
    with _laters_lock:
        laters = list(_laters)
    for later in laters:
        later.abandon()


def _is_done(future: concurrent.futures.Future[Any], seconds: float) -> bool:
    return bool(concurrent.futures.wait([future], seconds).done)


def _fetched(task: ray.ObjectRef) -> tuple[Ref | None, BaseException | None]:
    """Returns a result that holds tensors as a ref, or what it failed with."""
    try:
        return _transport.ref_of(task), None
    except BaseException as error:
        return None, error
