"""``@collective_input``: puts a function's result into the store."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from muster import _gpu_allocators, _muster, _runtime
from muster._ref import Ref
from muster._words import a_type_of
from muster.errors import Invalid

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    _P = ParamSpec("_P")

#: The argument by which the submitter of a task says what keeps its result. See ``muster.ray``.
CALL = "_muster_call"
#: The attribute of an error by which a task says that it failed as an input or its result was lost.
LOST = "_muster_lost"


@overload
def collective_input(
    function: Callable[_P, Coroutine[Any, Any, Any]], *, device: str = ..., timeout: float | None = ...
) -> Callable[_P, Coroutine[Any, Any, Ref]]: ...
@overload
def collective_input(
    function: Callable[_P, Any], *, device: str = ..., timeout: float | None = ...
) -> Callable[_P, Ref]: ...
@overload
def collective_input(
    *, device: str = ..., timeout: float | None = ...
) -> Callable[[Callable[_P, Any]], Callable[_P, Ref]]: ...
def collective_input(
    function: Callable[..., Any] | None = None, *, device: str = "cpu", timeout: float | None = None
) -> Any:
    """Marks a function whose returned arrays are inputs of collectives: calling it returns a ``Ref``.

    While the function runs, NumPy allocates inside the store, and with ``device="cuda:0"`` PyTorch and CuPy do so on
    that GPU. The result may be an array, or any nesting of dict, list, tuple and dataclass with arrays as leaves. An
    array that the call made, and that nobody else holds, is taken over without a copy. Every other array is copied
    once; ``Ref.copies`` counts those. Works on functions, methods and ``async`` functions.

    Args:
        device: where the arrays are to be: ``"cpu"``, ``"pinned"``, or ``"cuda:0"`` and so on. Arrays of
            ``muster.empty()`` on that device are taken over, too, arrays on other devices are copied there; NumPy
            allocates on ``"cpu"``. A call raises Invalid where the daemon has no memory there. Functions that are
            ``async`` have no allocations of PyTorch and CuPy in the store.
        timeout: seconds that a call may wait for room for arrays that have to be copied (30 by default); then it raises
            OutOfMemory. ``decorated.options(timeout=)`` returns the function with another timeout.

    Raises:
        Invalid: the function is a generator, there is no such device, or ``timeout`` is not a time.
    """
    _muster.check_deadline(timeout)
    device = _muster.device(device)
    if function is None:
        return functools.partial(collective_input, device=device, timeout=timeout)
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(collective_input(function.__func__, device=device, timeout=timeout))
    if _is_rays(function):
        return _in_ray("_tasks").mark(function, device=device, timeout=timeout)
    if not callable(function):
        raise Invalid(f"@collective_input can't be used on {a_type_of(function)}", "use it on a function or method")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise Invalid(
            f"@collective_input can't be used on the generator {function.__name__}()",
            "return the arrays, or decorate a function that is called for each item",
        )
    wrap = _wrap_async if inspect.iscoroutinefunction(function) else _wrap
    decorated: Any = wrap(function, timeout, device)
    decorated.options = functools.partial(options, function)
    decorated.__muster_input__ = True
    decorated.__ray_invocation_decorator__ = _submitting
    if "ray" in sys.modules:
        _be_innermost(decorated)
    return decorated


def _be_innermost(decorated: Any) -> None:
    """Lets Ray see the marks of a method, and what ``@ray.method`` adds: it looks only at the innermost function."""
    with contextlib.suppress(ValueError):  # some functions in C have no signature
        decorated.__signature__ = inspect.signature(decorated)
    decorated.__dict__.pop("__wrapped__", None)


def is_marked(function: Any) -> bool:
    """Whether this is a function that ``@collective_input`` made."""
    return getattr(function, "__muster_input__", False) is True


def _submitting(invocation: Callable[..., Any]) -> Callable[..., Any]:
    """Ray calls this with what submits a task of a marked function."""
    return _in_ray("_tasks").submitting(invocation) if "muster.ray" in sys.modules else invocation


def _is_rays(function: Any) -> bool:
    """Whether ``@ray.remote`` made this."""
    ray = sys.modules.get("ray")
    return ray is not None and isinstance(function, (ray.remote_function.RemoteFunction, ray.actor.ActorClass))


def _in_ray(module: str) -> Any:
    return importlib.import_module(f"muster.ray.{module}")


def options(function: Callable[..., Any], /, *, device: str = "cpu", timeout: float | None = None) -> Any:
    """Decorates the function with other options. ``decorated.options()`` calls this."""
    return collective_input(function, device=device, timeout=timeout)


# Decorated functions refer to names of this module only. So they can be pickled by value, as cloudpickle does with
# functions that a script or a notebook defines: everything else in them is the user's.


def _wrap(function: Callable[..., Any], timeout: float | None, device: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def deposit(*args: Any, **kwargs: Any) -> Any:
        return _deposit(function, args, kwargs, timeout, device)

    return deposit


def _deposit(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout: float | None,
    device: str,
    run: Callable[..., Any] = _muster.run,
    connection: Callable[[], Any] = _runtime.connection,
) -> Any:
    if CALL in kwargs:
        call = kwargs.pop(CALL)
        with _in_ray("_tasks").running():
            return _in_ray("_tasks").Kept(_deposit(function, args, kwargs, timeout, device), call)
    used = connection()
    if device == "cpu":
        return Ref(run(used, function, args, kwargs, timeout))
    _muster.require_device(used, device)
    with _gpu_allocators.route(used, device, timeout) as routed:
        return Ref(_muster.run_on(used, function, args, kwargs, timeout, device, routed))


def _wrap_async(function: Callable[..., Any], timeout: float | None, device: str) -> Callable[..., Any]:
    @functools.wraps(function)
    async def deposit(*args: Any, **kwargs: Any) -> Any:
        return await _deposit_async(function, args, kwargs, timeout, device)

    return deposit


async def _deposit_async(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None, device: str
) -> Any:
    if CALL in kwargs:
        call = kwargs.pop(CALL)
        async with _in_ray("_tasks").running_async():
            return _in_ray("_tasks").Kept(await _deposit_async(function, args, kwargs, timeout, device), call)
    if device != "cpu":
        _muster.require_device(_runtime.connection(), device)
        return Ref(_muster.finish_on(_runtime.connection(), await function(*args, **kwargs), timeout, device))
    call = _muster.Call(_runtime.connection())
    call.enter()
    try:
        return Ref(call.finish(await function(*args, **kwargs), timeout))
    finally:
        call.leave()


def _calibrate() -> None:
    """Checks that this interpreter's reference counts allow the rule of zero copies; if not, everything is copied."""
    if getattr(sys, "_is_gil_enabled", lambda: True)() is False:
        return
    keep: list[Any] = []
    watched: list[Any] = []

    def kept() -> Any:
        array = np.ones(3)
        keep.append(array)
        return array

    def kept_base() -> Any:
        array = np.ones(3)
        keep.append(array)
        return {"part": array[1:]}

    def kept_container() -> Any:
        made = [np.ones(3)]
        keep.append(made)
        return made

    def kept_beside() -> Any:
        array = np.ones(3)
        made = [array]
        keep.append(made)
        return [array, made]

    def kept_view() -> Any:
        array = np.ones(3)
        keep.append(array[1:])
        return {"whole": array, "part": keep[-1]}

    def watched_array() -> Any:
        array = np.ones(3)
        watched.append(weakref.ref(array))
        return array

    def twice() -> Any:
        array = np.ones(3)
        return array, array

    fresh: list[tuple[Callable[[], Any], int]] = [
        (lambda: np.ones(3), 1),
        (lambda: {"a": np.ones(3), "b": [np.ones(3), (np.ones(3),)]}, 3),
        (lambda: np.ones(4)[1:], 1),
        (twice, 2),
    ]
    shared = [(kept, 1), (kept_base, 1), (kept_container, 1), (kept_beside, 2), (kept_view, 2), (watched_array, 1)]

    async def given(function: Callable[[], Any]) -> Any:
        return _muster.probe_argument(await _awaited(function))

    def agrees(probe: Callable[[Callable[[], Any]], list[bool]]) -> bool:
        expected = [(function, [True] * leaves) for function, leaves in fresh]
        expected += [(function, [False] * leaves) for function, leaves in shared]
        return all(list(probe(function)) == sole for function, sole in expected)

    _muster.trust_counts(agrees(_muster.probe_call), agrees(lambda function: _drive(given(function))))


async def _awaited(function: Callable[[], Any]) -> Any:
    return function()


def _drive(coroutine: Any) -> Any:
    """Runs a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("the coroutine waits")


_calibrate()
