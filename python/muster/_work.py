"""Works: ops that this process has started."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Generator
from typing import Any, NoReturn, Optional

from muster import _muster, _runtime
from muster._out import copy_into
from muster._ref import Ref
from muster._stand_in import StandIn
from muster.errors import Error, Invalid, Timeout

_watched: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, int] = weakref.WeakKeyDictionary()


#: Called with each op that this process starts. It must not raise.
_observer: Callable[[Work], None] | None = None


def observe(function: Callable[[Work], None]) -> None:
    """Lets a function see each op that this process starts."""
    global _observer
    _observer = function


#: Called by a thread before it calls somebody's callback. It must not raise.
_before_callback: Callable[[], None] | None = None


def before_callbacks(function: Callable[[], None]) -> None:
    """Lets a thread that others wait for do something before it calls a callback, which may take its time."""
    global _before_callback
    _before_callback = function


#: Describes a work in messages: op, root or peer, key, group ("" for ops over refs).
About = tuple[str, Optional[int], str, str]
_FROM = ("broadcast", "scatter", "recv")


class Work(StandIn):
    """An op that was started; it ends with what this rank gets, or with the error that every rank gets."""

    __slots__ = ("__weakref__", "_about", "_callbacks", "_native", "_out")
    _take = "work.result()"

    def __init__(self, native: _muster.Work, about: About, out: Any = None) -> None:
        self._native = native
        self._about = about
        self._out = out
        self._callbacks: list[_Callback] = []
        if _observer is not None:
            _observer(self)

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the outcome and returns what this rank gets, in the structure of the input.

        Args:
            timeout: seconds; bounds this wait only, the op goes on. By default it waits until the op's own deadline.

        Raises:
            Timeout: the wait or the op took too long; ``ranks`` names the missing ranks.
            Mismatch, PeerLost, Invalid, OutOfMemory: the op's outcome, the same on every rank.
        """
        value = self._native.result(timeout)
        if self._out is None or value is None:
            return value
        copy_into(self._out, value)
        return self._out

    @property
    def ref(self) -> Any:
        """Waits for the result and returns it as a ``Ref`` (or a list of them if the rank gets a list)."""
        found = self._native.ref(None)
        if isinstance(found, list):
            return [Ref(stored) for stored in found]
        return None if found is None else Ref(found)

    def done(self) -> bool:
        """Whether the op is over, well or not. Never blocks."""
        return self._native.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the op is over, well or not. Returns False if ``timeout`` seconds pass first.

        Raises:
            Invalid: ``timeout`` is not a time.
        """
        _muster.seconds(timeout)
        try:
            self._native.wait(timeout)
        except Timeout:
            return self.done()
        except Error:
            return True
        return True

    def exception(self, timeout: float | None = None) -> Error | None:
        """Waits like ``result``. Returns the op's error or None; raises Timeout if the wait takes too long."""
        _muster.seconds(timeout)
        try:
            self._native.wait(timeout)
        except Timeout as error:
            if not self.done():
                raise
            return error
        except Error as error:
            return error
        return None

    def _lend_cpu(self, seconds: float) -> bool:
        """Waits that long for tasks of Ray, and lends them the CPU of this one: they may need it to run at all.

        Returns False at once if there is nothing of that kind to wait for.
        """
        return False

    def cancelled(self) -> bool:
        """Returns False: an op can't be cancelled. For callers that expect a future, such as ``asyncio.wait``."""
        return False

    def add_done_callback(self, callback: Callable[[Work], Any]) -> None:
        """Calls ``callback(self)`` once when the op is over.

        If an event loop of asyncio runs in this thread, that loop makes the call, as it does for its own futures.
        Otherwise, and after the loop's end, a thread that waits for any work makes the call; if the op is over already,
        this method does.

        Raises:
            Invalid: ``callback`` can't be called.
        """
        if not callable(callback):
            raise Invalid(f"callback={callback!r} can't be called", "give a function of one argument, the work")
        loop = asyncio._get_running_loop()
        if loop is not None and not self.done():
            _watch(loop)
        added = _Callback(self, callback, loop)
        self._callbacks.append(added)
        self._native.add_done_callback(added.over)

    def remove_done_callback(self, callback: Callable[[Work], Any]) -> int:
        """Forgets every ``callback`` that equals this one and was not called yet. Returns how many."""
        removed = [added for added in list(self._callbacks) if added.function == callback]
        return sum(added.forget() for added in removed)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.done():
            loop = asyncio.get_running_loop()
            _watch(loop)
            over = loop.create_future()
            self._native.add_done_callback(lambda: _tell(loop, _settle, over))
            yield from over.__await__()
        return self.result()

    def __reduce__(self) -> NoReturn:
        raise Invalid("a muster.Work can't be pickled: it belongs to its process", "pass on its .result() or .ref")

    def _title(self) -> str:
        op, peer, key, group = self._about
        name = op if peer is None else f"{op} {'from' if op in _FROM else 'to'} {peer}"
        name += f" {key!r}" if key else ""
        return name + (f" in {group!r}" if group else " of refs")

    def __repr__(self) -> str:
        if not self.done():
            return f"<muster.Work: {self._title()}, pending>"
        error = self.exception()
        return f"<muster.Work: {self._title()}, {type(error).__name__ if error else 'done'}>"

    def __bool__(self) -> NoReturn:
        raise self._misused()

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise self._misused("was used as an array")

    def __iter__(self) -> NoReturn:
        raise self._misused()


class _Callback:
    """A function to call when a work is over, and the loop that calls it, if any."""

    def __init__(self, work: Work, function: Callable[[Work], Any], loop: asyncio.AbstractEventLoop | None) -> None:
        self.function = function
        self._work = work
        self._loop = loop

    def over(self) -> None:
        if self._loop is None or not _tell(self._loop, self._call):
            self._call()

    def _call(self) -> None:
        function = self.function
        if self.forget():
            if _before_callback is not None:
                _before_callback()
            function(self._work)

    def forget(self) -> bool:
        """Returns False if it was called or forgotten before. The op keeps this object to its end, not the function."""
        try:
            self._work._callbacks.remove(self)
        except ValueError:
            return False
        self.function = _forgotten
        return True


def _forgotten(_: Work) -> None: ...


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *args: Any) -> bool:
    """Returns False if the loop ended before the op, for instance because nobody waits there after a timeout."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise
        return False
    return True


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _watch(loop: asyncio.AbstractEventLoop) -> None:
    """Lets the loop read completions whenever some may have come."""
    connection = _runtime.connection()
    descriptor = connection.event_fd()
    if _watched.get(loop) != descriptor:
        loop.add_reader(descriptor, connection.poll)
        _watched[loop] = descriptor
    connection.poll()
