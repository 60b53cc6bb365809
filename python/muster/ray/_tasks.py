"""Calls of marked functions as tasks: what their submitter does, and what the process does that runs them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import ray

from muster import _muster
from muster._decorator import CALL, LOST, collective_input
from muster._ref import Ref
from muster.errors import DaemonRestarted, DaemonUnavailable, Error, Invalid, ObjectLost
from muster.ray import _cluster, _hooks, _keepers, _needs, _owned, _placing, _recovery, _refs


def submitting(invocation: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps what submits a marked function's task: opens what keeps the results, and tells the task its name."""
    submission = _hooks.Submission(invocation)
    may_choose_node = submission.may_choose_node()

    def submit(args: Any, kwargs: Any, retries: int | None = None, timeout: float | None = None) -> Any:
        owned = _cluster.with_daemon(_owned.open_owned, timeout)
        try:
            if may_choose_node:
                submission.choose_node(_placing.node_of((args, kwargs)))
            refs = submission.invoke(args, {**(kwargs or {}), CALL: _Given(owned.name, owned.marker)})
        except BaseException as error:
            owned.end()
            if isinstance(error, TypeError) and CALL in str(error):
                raise Invalid(
                    "the class or function was defined, or first called, before muster.ray was imported",
                    "import muster.ray before it",
                ) from None
            raise
        if isinstance(refs, ray.ObjectRefGenerator):
            owned.end()
            raise Invalid("a marked function can't be a generator task", "return the arrays, or leave the mark out")
        owned.watch(_owned.as_list(refs))
        owned.retries = submission.retries() if retries is None else retries
        owned.again = _recovery.remembered(submit, args, kwargs) if owned.retries else None
        return refs

    return submit


def mark(remote: Any, **options: Any) -> Any:
    """Returns a task's function marked, with the options that ``@ray.remote`` was given.

    Raises:
        Invalid: this is a class of actors.
    """
    found = _hooks.function_of(remote)
    if found is None:
        raise Invalid("@collective_input can't be used on a class of actors", "use it on the methods of the class")
    function, of_ray = found
    marked = collective_input(function, **options)
    return ray.remote(**of_ray)(marked) if of_ray else ray.remote(marked)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Around a call that runs as a task. A daemon that ends meanwhile is a loss, after which the task is run again."""
    with _needing(_cluster.need()):
        yield


@contextlib.asynccontextmanager
async def running_async() -> AsyncIterator[None]:
    """The same for an ``async`` function. If the daemon has to be started first, a thread waits for it."""
    with _needing(_cluster.need_now() or await _needed_by_a_thread()):
        yield


async def _needed_by_a_thread() -> str:
    needed = asyncio.get_running_loop().run_in_executor(None, _cluster.need)
    try:
        return await asyncio.shield(needed)
    except asyncio.CancelledError:
        needed.add_done_callback(_end_need)
        raise


def _end_need(needed: asyncio.Future[str]) -> None:
    if needed.exception() is None:
        _needs.end(needed.result())


@contextlib.contextmanager
def _needing(socket: str) -> Iterator[None]:
    try:
        yield
    except (DaemonRestarted, DaemonUnavailable) as error:
        setattr(error, LOST, True)
        raise
    finally:
        _needs.end(socket)


class _Given:
    """What a task is told of its call, as an argument of it. It names the marker, so the marker lives till the task."""

    __slots__ = ("_marker", "_token")

    def __init__(self, token: str, marker: ray.ObjectRef) -> None:
        self._token = token
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        _hooks.contain(self._marker)
        return (_Call, (self._token, _refs.here(), self._marker.binary(), _hooks.owner_of(self._marker)))


class _Call:
    """The same in the task.

    Attributes:
        token: what keeps the task's results.
        submitted_on: the node where it is open.
    """

    __slots__ = ("_borrowed", "_marker", "submitted_on", "token")

    def __init__(self, token: str, submitted_on: str, marker: bytes, owner: bytes) -> None:
        self.token = token
        self.submitted_on = submitted_on
        self._marker = marker
        self._borrowed = _hooks.borrow(marker, owner)

    def marker(self) -> ray.ObjectRef:
        """The marker. To keep it longer than needed makes Ray tell its owner of that, and of the end."""
        return self._borrowed or ray.ObjectRef(self._marker)


class Kept:
    """A task's result on its way to Ray: an object under its submitter's token. It arrives as a ``muster.Ref``.

    If the object is a list or a tuple, its items are the values of a task with several results.
    """

    __slots__ = ("_call", "_ref")

    def __init__(self, ref: Ref, call: _Call) -> None:
        self._ref = ref
        self._call = call

    def __reduce__(self) -> tuple[Any, ...]:
        call = self._call
        try:
            if call.submitted_on != _refs.here():
                _keepers.keep_here(call.token, call.submitted_on)
            self._ref.keep_for(call.token)
            return (_refs.load, _refs.carried(self._ref, call.marker()))
        except Invalid:  # the token has ended: with the daemon, or as nobody needs the result any more
            lost: Error = ObjectLost(
                "the daemon ended before the call was over, and with it what was to keep the result",
                "call it again, or let that be done: max_retries=, for methods max_task_retries=",
            )
        except (DaemonRestarted, DaemonUnavailable) as error:
            lost = error.with_traceback(None)
        return _refs.LostRef(lost, _refs.place_of(self._ref)).__reduce__()

    def __len__(self) -> int:
        return len(self._parts())

    def __iter__(self) -> Iterator[Kept]:
        return (Kept(Ref(part), self._call) for part in self._parts())

    def _parts(self) -> list[_muster.Ref]:
        stored = self._ref._alive()
        try:
            return stored.parts()
        except Invalid:
            raise Invalid(
                f"the call is to have several results, and the function returned {stored.structure}",
                "return a tuple with a value for each of num_returns=, or leave that out",
            ) from None
