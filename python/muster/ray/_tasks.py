"""Calls of marked functions as tasks: what their submitter does, and what the process does that runs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import ray

from muster import _muster
from muster._decorator import CALL, LOST, collective_input
from muster._ref import Ref
from muster.errors import DaemonRestarted, DaemonUnavailable, Invalid
from muster.ray import _cluster, _hooks, _keepers, _owned, _placing, _recovery, _refs


def submitting(invocation: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps what submits a marked function's task: opens what keeps the results, and tells the task its name."""
    may_choose_node = _hooks.may_choose_node(invocation)

    def submit(args: Any, kwargs: Any, retries: int | None = None, timeout: float | None = None) -> Any:
        owned = _cluster.with_daemon(_owned.open_owned, timeout)
        if may_choose_node:
            _hooks.choose_node(invocation, _placing.node_of((args, kwargs)))
        try:
            # In a list, the marker is passed on as it is: Ray gives a task the values of its other arguments.
            refs = invocation(args, {**(kwargs or {}), CALL: [owned.name, owned.marker, _refs.here()]})
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
        owned.retries = _hooks.retries_of(invocation) if retries is None else retries
        owned.again = _recovery.remembered(submit, args, kwargs) if owned.retries else None
        owned.watch(_owned.as_list(refs))
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
    _cluster.ready()
    try:
        yield
    except (DaemonRestarted, DaemonUnavailable) as error:
        setattr(error, LOST, True)
        raise


class Kept:
    """A task's result on its way to Ray: an object under its submitter's token. It arrives as a ``muster.Ref``.

    If the object is a list or a tuple, its items are the values of a task with several results.
    """

    __slots__ = ("_call", "_ref")

    def __init__(self, ref: Ref, call: tuple[str, ray.ObjectRef, str]) -> None:
        self._ref = ref
        self._call = call

    def __reduce__(self) -> tuple[Any, ...]:
        token, marker, submitted_on = self._call
        if submitted_on != _refs.here():
            _keepers.keep_here(token, submitted_on)
        with contextlib.suppress(Invalid):  # the token has ended: nobody needs the result
            self._ref.keep_for(token)
        return (_refs.load, _refs.carried(self._ref, marker))

    def __len__(self) -> int:
        return len(self._parts())

    def __iter__(self) -> Iterator[Kept]:
        return (Kept(Ref(part), self._call) for part in self._parts())

    def _parts(self) -> list[_muster.Ref]:
        return self._ref._alive().parts()
