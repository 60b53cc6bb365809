"""Results that are lost are made again: the process that submitted the task submits it once more.

Ray does not do that: what it keeps of a result is a small ref, and that is not lost.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import ray

from muster._decorator import LOST
from muster._ref import Ref
from muster.errors import DaemonUnavailable, ObjectLost
from muster.ray import _owned
from muster.ray._refs import LostRef

_PAUSE_MAX_S = 5.0


def settled(ref: ray.ObjectRef, timeout: float | None = None) -> Any:
    """Returns a task's value. What is lost is made again, as often as the task may be retried.

    Args:
        timeout: seconds to wait for all of that.

    Raises:
        ray.exceptions.GetTimeoutError: it was not there in time.
        ObjectLost: it is lost, and this process can't make it again.
    """
    until = None if timeout is None else time.monotonic() + timeout
    pause = 0.0
    while True:
        lost: BaseException
        try:
            value = ray.get(ref, timeout=_left(until))
            if not isinstance(value, LostRef):
                return value
            lost = value.to_raise()
            if not _is_marked(lost):
                raise lost
        except ray.exceptions.RayTaskError as error:
            if not is_loss(error):
                raise
            lost = error
        again = made_again(ref, until)
        if again is None:
            raise lost
        ref = again
        time.sleep(pause if until is None else min(pause, _seconds_to(until)))
        pause = min(2 * pause + 0.01, _PAUSE_MAX_S)


def _seconds_to(until: float) -> float:
    """The seconds that are left until a moment."""
    return max(until - time.monotonic(), 0)


def _left(until: float | None) -> float | None:
    return None if until is None else _seconds_to(until)


def is_loss(error: BaseException) -> bool:
    """Whether a task failed as one of its inputs, or its result, was lost: not if its own code met a lost object."""
    return _is_marked(getattr(error, "cause", None))


def _is_marked(error: Any) -> bool:
    return bool(getattr(error, LOST, False))


def made_again(ref: ray.ObjectRef, until: float | None = None) -> ray.ObjectRef | None:
    """Returns the result that stands for a lost one: a task that runs already, or is submitted now.

    None if this process did not submit the task, or may not retry it any more.

    Args:
        until: the moment until which the inputs of the task are waited for.

    Raises:
        ray.exceptions.GetTimeoutError: they were not there by then.
    """
    found = _owned.call_of(ref)
    return None if found is None else _made_again(*found, until)


def _made_again(owned: _owned.Owned, place: int, until: float | None) -> ray.ObjectRef | None:
    while True:
        with owned.lock:
            if owned.replaced is not None:
                return owned.replaced[place]
            again, making = owned.again, owned.making
            if again is None or owned.retries == 0:
                return None
            if making is None:
                owned.making = threading.Event()
        if making is None:
            _make_again(owned, again, until)
        elif not making.wait(_left(until)):  # whoever else misses the result waits for the same task
            raise _too_late()


def _make_again(owned: _owned.Owned, again: _owned.Again, until: float | None) -> None:
    refs = None
    try:
        args, kwargs = _fresh(again.args, until), _fresh(again.kwargs, until)
        refs = _owned.as_list(again.submit(args, kwargs, owned.retries - 1, _left(until)))
    except DaemonUnavailable:
        if until is not None and _seconds_to(until) == 0:
            raise _too_late() from None
        raise
    finally:
        with owned.lock:
            owned.replaced = refs
            making, owned.making = owned.making, None
        if making is not None:
            making.set()


def _too_late() -> BaseException:
    error: BaseException = ray.exceptions.GetTimeoutError("a result was lost, and was not made again in time")
    return error


def remembered(submit: Any, args: Any, kwargs: Any) -> _owned.Again | None:
    """Returns how to make a call again; None if its arguments can't be kept as they are now, or it took too much."""
    keeper = _Keeper()
    try:
        kept = [keeper.keep(x) for x in args or ()], {name: keeper.keep(x) for name, x in (kwargs or {}).items()}
    except _CantBeKeptError:
        return None
    return _owned.Again(submit, *kept, keeper.depth + 1)


class _CantBeKeptError(Exception):
    pass


class _Keeper:
    """Keeps arguments: what may be changed later is copied, and results of calls are kept by how they are made."""

    _BYTES_MAX = 1 << 20
    _DEPTH_MAX = 100
    _FIXED = (type(None), bool, int, float, complex, str, bytes, np.generic, np.dtype, ray.actor.ActorHandle, Ref)

    def __init__(self) -> None:
        self.depth = 0
        self._left = self._BYTES_MAX

    def keep(self, x: Any) -> Any:
        if isinstance(x, self._FIXED):
            return x
        if isinstance(x, ray.ObjectRef):
            return self._keep_result(x)
        if type(x) is np.ndarray and not x.dtype.hasobject and x.nbytes <= self._left:
            self._left -= x.nbytes
            return x.copy()
        if type(x) in (list, tuple):
            return type(x)(self.keep(item) for item in x)
        if type(x) is dict:
            return {key: self.keep(value) for key, value in x.items()}
        raise _CantBeKeptError

    def _keep_result(self, ref: ray.ObjectRef) -> Any:
        found = _owned.call_of(ref)
        if found is None:
            return ref  # Ray keeps it, or makes it again
        owned, place = found
        if owned.again is not None:
            self.depth = max(self.depth, owned.again.depth)
            if self.depth >= self._DEPTH_MAX:
                raise _CantBeKeptError
        return _owned.Made(owned, place, ref.binary())


def _fresh(x: Any, until: float | None) -> Any:
    """Returns an argument for a call that is made again. Results of calls that are lost are made again first."""
    if isinstance(x, _owned.Made):
        ref = x.ref()
        return _last(_made_again(x.owned, x.place, until) if ref is None else ref, until)
    if type(x) in (list, tuple):
        return type(x)(_fresh(item, until) for item in x)
    if type(x) is dict:
        return {key: _fresh(value, until) for key, value in x.items()}
    return x


def _last(ref: ray.ObjectRef | None, until: float | None) -> ray.ObjectRef:
    """Returns the result that stands for this one now, if that was lost and can be made again."""
    if ref is None:
        raise ObjectLost("an input of a task is gone, and can't be made again", "keep its ObjectRef, or allow retries")
    while True:
        try:
            if not isinstance(ray.get(ref, timeout=_left(until)), LostRef):
                return ref
        except ray.exceptions.RayTaskError as error:
            if not is_loss(error):
                return ref
        again = made_again(ref, until)
        if again is None:
            return ref
        ref = again
