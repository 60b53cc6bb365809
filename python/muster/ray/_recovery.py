"""Results that are lost are made again: the process that submitted the task submits it once more.

Ray does not do that: what it keeps of a result is a small ref, and that is not lost.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray

from muster._decorator import LOST
from muster._ref import Ref
from muster.errors import DaemonUnavailable, ObjectLost
from muster.ray import _owned, _steps
from muster.ray._refs import LostRef

_PAUSE_MAX_S = 5.0


class Loss:
    """What is there of a result that is lost: the error.

    The frames that an error has passed keep what is in them, and this loss, too: until somebody collects the garbage,
    unless they are forgotten here.
    """

    def __init__(self, error: BaseException) -> None:
        self._error: BaseException | None = error.with_traceback(None)

    def to_raise(self) -> BaseException:
        """Gives the error away. Can be called once."""
        error, self._error = self._error, None
        assert error is not None
        return error


def settled(refs: list[ray.ObjectRef], timeout: float | None = None) -> list[Any]:
    """Returns the values of tasks. What is lost is made again, all at once, as often as the tasks may be retried.

    Args:
        timeout: seconds to wait for all of that.

    Raises:
        ray.exceptions.GetTimeoutError: they were not there in time.
        ObjectLost: one is lost, and this process can't make it again.
    """
    until = None if timeout is None else time.monotonic() + timeout
    found = [_found(ref, _left(until)) for ref in refs]
    lost = [index for index, value in enumerate(found) if isinstance(value, Loss)]
    if lost:
        again = [_recovering(refs[index], found[index], until) for index in lost]
        for index, value in zip(lost, _steps.run(_steps.together(again), until)):
            found[index] = value
    return found


def settling(ref: ray.ObjectRef) -> _steps.Steps[Any]:
    """Like ``settled``, as steps, for one result, which has arrived."""
    found = _found(ref)
    return (yield from _recovering(ref, found, None)) if isinstance(found, Loss) else found


def _found(ref: ray.ObjectRef, timeout: float | None = None) -> Any:
    """Returns a task's value, or the loss of it. ``timeout``: seconds to wait for it.

    Raises:
        ray.exceptions.RayTaskError: the task failed by itself.
        ObjectLost: it is not lost, but can't be read here.
    """
    try:
        value = ray.get(ref, timeout=timeout)
    except ray.exceptions.RayTaskError as error:
        if not is_loss(error):
            raise
        return Loss(error)
    if not isinstance(value, LostRef):
        return value
    lost = value.to_raise()
    if not _is_marked(lost):
        raise lost
    return Loss(lost)


def _recovering(ref: ray.ObjectRef, found: Any, until: float | None) -> _steps.Steps[Any]:
    pause = 0.0
    while isinstance(found, Loss):
        again = yield from made_again(ref, until)
        if again is None:
            raise found.to_raise()
        ref = again
        yield _steps.Pause(pause)
        pause = min(2 * pause + 0.01, _PAUSE_MAX_S)
        yield _steps.Result(ref)
        found = _found(ref)
    return found


def _left(until: float | None) -> float | None:
    return None if until is None else max(until - time.monotonic(), 0)


def is_loss(error: BaseException) -> bool:
    """Whether a task failed as one of its inputs, or its result, was lost: not if its own code met a lost object."""
    return _is_marked(getattr(error, "cause", None))


def _is_marked(error: Any) -> bool:
    return bool(getattr(error, LOST, False))


def made_again(ref: ray.ObjectRef, until: float | None = None) -> _steps.Steps[ray.ObjectRef | None]:
    """Finds the result that stands for a lost one: of a task that runs already, or is submitted now.

    None if this process did not submit the task, or may not retry it any more.

    Args:
        until: the moment until which a daemon is waited for.
    """
    found = _owned.call_of(ref)
    return None if found is None else (yield from _made_again(*found, until))


def _made_again(owned: _owned.Owned, index: int, until: float | None) -> _steps.Steps[ray.ObjectRef | None]:
    while True:
        with owned.lock:
            replaced, again, making = owned.replaced, owned.again, owned.making
            if replaced is None and making is None:
                if again is None or owned.retries == 0:
                    return None
                owned.making = concurrent.futures.Future()
        if replaced is not None:
            made = replaced[index]
            ref = made.ref()
            if ref is not None:
                return ref
            owned, index = made.owned, made.result  # nothing has held it: it is made again in its turn
            continue
        if making is None:
            assert again is not None
            refs = yield from _make_again(owned, again, until)
        else:
            yield _steps.Over(making)  # others that miss the result wait for the same task
            refs = making.result()
        if refs is not None:
            return refs[index]


def _make_again(
    owned: _owned.Owned, again: _owned.Again, until: float | None
) -> _steps.Steps[list[ray.ObjectRef] | None]:
    refs = None
    try:
        inputs: dict[bytes, ray.ObjectRef] = {}
        for made in _made_in((again.args, again.kwargs)):
            if made.id not in inputs:
                inputs[made.id] = yield from _current(made, until)
        args, kwargs = _with(inputs, again.args), _with(inputs, again.kwargs)
        refs = _owned.as_list(again.submit(args, kwargs, owned.retries - 1, _left(until)))
        owned.replace(refs)
    except DaemonUnavailable:
        if _left(until) == 0:
            raise _steps.too_late() from None
        raise
    finally:
        with owned.lock:
            making, owned.making = owned.making, None
        if making is not None:
            making.set_result(refs)
    return refs


def remembered(submit: Any, args: Any, kwargs: Any) -> _owned.Again | None:
    """Returns how to make a call again; None if its arguments can't be kept as they are now, or it took too much."""
    copier = _Copier()
    try:
        kept = [copier.keep(x) for x in args or ()], {name: copier.keep(x) for name, x in (kwargs or {}).items()}
    except _CantBeKeptError:
        return None
    return _owned.Again(submit, *kept, copier.depth + 1)


class _CantBeKeptError(Exception):
    pass


class _Copier:
    """Keeps arguments: what may be changed later is copied, and results of calls are kept by how they are made."""

    _BYTES_MAX = 1 << 20
    _DEPTH_MAX = 100
    _NESTING_MAX = 100
    _ITEMS_MAX = 100_000
    _FIXED = (type(None), bool, int, float, complex, str, bytes, np.generic, np.dtype, ray.actor.ActorHandle, Ref)

    def __init__(self) -> None:
        self.depth = 0
        self._left = self._BYTES_MAX
        self._items_left = self._ITEMS_MAX

    def keep(self, x: Any, nesting: int = 0) -> Any:
        self._items_left -= 1
        if nesting > self._NESTING_MAX or self._items_left < 0:
            raise _CantBeKeptError  # it may be in itself
        if isinstance(x, self._FIXED):
            return x
        if isinstance(x, ray.ObjectRef):
            return self._keep_result(x)
        if type(x) is np.ndarray and not x.dtype.hasobject and x.nbytes <= self._left:
            self._left -= x.nbytes
            return x.copy()
        if type(x) in (list, tuple):
            return type(x)(self.keep(item, nesting + 1) for item in x)
        if type(x) is dict:
            return {key: self.keep(value, nesting + 1) for key, value in x.items()}
        raise _CantBeKeptError

    def _keep_result(self, ref: ray.ObjectRef) -> Any:
        found = _owned.call_of(ref)
        if found is None:
            return ref  # Ray keeps it, or makes it again
        owned, index = found
        if owned.again is not None:
            self.depth = max(self.depth, owned.again.depth)
            if self.depth >= self._DEPTH_MAX:
                raise _CantBeKeptError
        return _owned.Made(owned, index, ref.binary())


def _made_in(kept: Any) -> Iterator[_owned.Made]:
    """The results of calls among arguments that were kept."""
    if isinstance(kept, _owned.Made):
        yield kept
    elif type(kept) in (list, tuple, dict):
        for item in kept.values() if type(kept) is dict else kept:
            yield from _made_in(item)


def _with(inputs: dict[bytes, ray.ObjectRef], kept: Any) -> Any:
    """Returns arguments for a call that is made again, with these results in them."""
    if isinstance(kept, _owned.Made):
        return inputs[kept.id]
    if type(kept) in (list, tuple):
        return type(kept)(_with(inputs, item) for item in kept)
    if type(kept) is dict:
        return {key: _with(inputs, value) for key, value in kept.items()}
    return kept


def _current(made: _owned.Made, until: float | None) -> _steps.Steps[ray.ObjectRef]:
    """Finds the result that stands for an input now. If that is lost and can be made again, it is."""
    ref = made.ref()
    if ref is None:
        ref = yield from _made_again(made.owned, made.result, until)
    if ref is None:
        raise ObjectLost("an input of a task is gone, and can't be made again", "keep its ObjectRef, or allow retries")
    while True:
        yield _steps.Result(ref)
        try:
            if not isinstance(ray.get(ref), LostRef):
                return ref
        except ray.exceptions.RayTaskError as error:
            if not is_loss(error):
                return ref
        again = yield from made_again(ref, until)
        if again is None:
            return ref
        ref = again
