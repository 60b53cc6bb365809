"""Work that waits now and then, as steps: a generator that yields what it waits for next.

``run`` goes through the steps on this thread, and waits. ``run_on`` waits on no thread: one of a pool goes on when what
is waited for is there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

import ray

T = TypeVar("T")


class Wait(Protocol):
    """What steps wait for."""

    def wait(self, seconds: float | None) -> bool:
        """Waits on this thread; None: as long as it takes. Returns False if it was not there in time."""

    def then(self, call: Callable[[], Any]) -> None:
        """Makes a call when it is there, on a thread that must not wait. It may be this one, at once."""


Steps = Generator[Wait, None, T]


class Result:
    """A task's result is there, or its error."""

    def __init__(self, ref: ray.ObjectRef) -> None:
        self.ref = ref

    def wait(self, seconds: float | None) -> bool:
        try:
            ray.get(self.ref, timeout=seconds)
        except ray.exceptions.GetTimeoutError:
            return False
        except ray.exceptions.RayError:
            pass  # who asked for it gets it by itself
        return True

    def then(self, call: Callable[[], Any]) -> None:
        def over(future: Any) -> None:
            future.object_ref = None  # Ray may keep the future for a while, and with it the result
            call()

        self.ref.future().add_done_callback(over)


class Over:
    """One of some things that other threads, or other steps, do is over."""

    def __init__(self, *futures: concurrent.futures.Future[Any]) -> None:
        self.futures = futures

    def is_there(self) -> bool:
        return any(future.done() for future in self.futures)

    def wait(self, seconds: float | None) -> bool:
        first = concurrent.futures.FIRST_COMPLETED
        return bool(concurrent.futures.wait(self.futures, seconds, first).done)

    def then(self, call: Callable[[], Any]) -> None:
        called = threading.Lock()
        for future in self.futures:
            future.add_done_callback(lambda _: called.acquire(blocking=False) and call())


class Pause:
    """Some seconds have passed. With 0, steps only go on on another thread of the pool."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def wait(self, seconds: float | None) -> bool:
        time.sleep(self._seconds if seconds is None else min(self._seconds, seconds))
        return True

    def then(self, call: Callable[[], Any]) -> None:
        if self._seconds:
            _clock.call_later(self._seconds, call)
        else:
            call()


class _Clock:
    """A thread that makes calls later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def call_later(self, seconds: float, call: Callable[[], Any]) -> None:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="muster-ray-clock", daemon=True).start()
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, call)


_clock = _Clock()


def run(steps: Steps[T], until: float | None) -> T:
    """Goes through the steps on this thread, and returns what they return.

    Raises:
        ray.exceptions.GetTimeoutError: what they wait for was not there at that moment.
    """
    with contextlib.closing(steps):
        while True:
            try:
                wait = next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if not wait.wait(None if until is None else max(until - time.monotonic(), 0)):
                raise too_late()


def too_late() -> BaseException:
    error: BaseException = ray.exceptions.GetTimeoutError("a result was lost, and was not made again in time")
    return error


def together(each: list[Steps[T]]) -> Steps[list[T]]:
    """Goes through several steps by turns, so that what one waits for is begun before another is waited for.

    Returns what they return, in their order.
    """
    returned: dict[int, T] = {}
    waiting: dict[int, Wait] = {}
    ready = list(range(len(each)))
    try:
        while ready or waiting:
            for turn in ready:
                try:
                    waiting[turn] = next(each[turn])
                except StopIteration as end:
                    returned[turn] = end.value
            # What some wait for may be done by others of them. So that is waited for when all wait for such.
            over = {turn: wait for turn, wait in waiting.items() if isinstance(wait, Over)}
            if len(over) < len(waiting):
                ready = [next(turn for turn in waiting if turn not in over)]
                yield waiting[ready[0]]
            elif over:
                yield Over(*(future for wait in over.values() for future in wait.futures))
                ready = [turn for turn, wait in over.items() if wait.is_there()]
            else:
                ready = []
            for turn in ready:
                del waiting[turn]
    finally:
        for steps in each:
            steps.close()
    return [returned[turn] for turn in range(len(each))]


def run_on(
    pool: concurrent.futures.Executor,
    steps: Steps[T],
    done: Callable[[T], None],
    failed: Callable[[BaseException], None],
    waits: Callable[[Any], None],
) -> None:
    """Goes through the steps, on this thread until they wait first, then on threads of a pool. Never waits.

    ``waits``: called with each thing that the steps wait for.
    """

    def go_on() -> None:
        try:
            pool.submit(run_on, pool, steps, done, failed, waits)
        except BaseException as error:  # the pool takes nothing any more, as the interpreter ends
            failed(error)

    try:
        wait = next(steps)
        waits(wait)
        wait.then(go_on)
    except StopIteration as end:
        done(end.value)
    except BaseException as error:
        failed(error)
