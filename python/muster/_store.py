"""Puts values into the store, and waits for several refs and works."""

from __future__ import annotations

import math
import operator
import select
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from muster import _muster, _runtime
from muster._checks import flag
from muster._ref import Ref
from muster._words import a_type_of
from muster._work import Work
from muster.errors import Invalid

_SLICE_S = 0.05
_AXES_MAX = 64  # NumPy's own limit


def put(x: Any, *, device: str | None = None, timeout: float | None = None, in_place: bool = False) -> Ref:
    """Copies a value (an array, a scalar, or a nesting of them) into the store.

    Args:
        x: the value. A ``Ref`` is returned as it is, or moved to ``device``.
        device: where all of its arrays are to be: ``"cpu"``, ``"pinned"``, or ``"cuda:0"`` and so on. By default arrays
            of GPUs stay where they are, and all others are on ``"cpu"``. Work on a GPU that writes an array is waited
            for.
        timeout: seconds to wait while the store is full there (30 by default).
        in_place: leaves arrays of other libraries (PyTorch, CuPy) where they are on GPUs, if CUDA can share their
            memory by handles of legacy IPC. What can't be left is copied, and ``ref.copy_reasons`` says why. Such an
            array is kept until no other process needs it, and ends with this process. Nobody may write to it as long
            as its object is there: that is the caller's promise.

    Raises:
        OutOfMemory: the store stayed full.
        Invalid: the value holds something that can't be stored, or there is no such device. What is to be left in place
            can't be opened by the daemon, which may run in another container.
        QuotaExceeded: this process, or its user, has left as much in place as it may.
        Denied: the daemon is another user's, and arrays were to be left in place.
    """
    if isinstance(x, Ref):
        return x if device is None else x.to(device, timeout=timeout)
    return Ref(_muster.put(_runtime.connection(), x, timeout, device, flag("in_place", in_place)))


def empty(
    shape: int | Sequence[int], dtype: Any = np.float64, device: str = "cpu", *, timeout: float | None = None
) -> Any:
    """Returns a writable array inside the store, not initialized. ``seal()`` makes it a ``Ref`` without a copy.

    On the host it is a NumPy array, on a GPU a ``DeviceArray``, which CuPy, Numba, JAX and PyTorch take without a copy.
    ``"pinned"`` is memory of the host that GPUs read and write directly: see ``is_pinned()``.

    Args:
        shape: of the array, or the length of its only axis; sizes may be 0.
        dtype: anything that ``numpy.dtype`` takes and the store holds: bool, integers, floats, complex, bfloat16.
        device: where the daemon has memory for it: ``"cpu"``, ``"pinned"``, or ``"cuda:0"`` and so on.
        timeout: seconds to wait while the store is full (30 by default).

    Raises:
        OutOfMemory: the store stayed full.
        Invalid: the store can't hold such a shape or dtype, or has no memory on the device, or this process can't use
            it.
    """
    connection = _runtime.connection()
    _muster.require_device(connection, device)
    try:
        known = np.dtype(dtype)
    except TypeError:
        raise Invalid(f"dtype={dtype!r} is not valid", "give what numpy.dtype takes, for instance 'float32'") from None
    return _muster.empty(connection, _sizes(shape), known, timeout, device)


def _sizes(shape: Any) -> list[int]:
    refused = Invalid(
        f"shape={shape!r} is not valid", "give a length of 0 or more, or one for each axis, for instance (2, 3)"
    )
    try:
        is_number = isinstance(shape, (int, np.integer))
        sizes = [operator.index(size) for size in ([shape] if is_number else shape)]
    except TypeError:
        raise refused from None
    if not all(0 <= size < 2**63 for size in sizes):
        raise refused
    if len(sizes) > _AXES_MAX:
        raise Invalid(f"the shape has {len(sizes)} axes", f"use at most {_AXES_MAX}")
    return sizes


def is_pinned(array: np.ndarray[Any, Any]) -> bool:
    """Whether GPUs reach the array's memory directly, so that copies to and from them need no other memory.

    That holds for arrays of ``empty(device="pinned")`` up to a quarter of the store's memory in each process. Arrays
    that ``Ref.get()`` returns of such objects are pinned once this process uses a GPU by Muster, if its driver can do
    that with memory for reading. All others on ``"pinned"`` are as on ``"cpu"``.

    Raises:
        Invalid: it is not a NumPy array.
    """
    if not isinstance(array, np.ndarray):
        raise Invalid(f"array={array!r} is not a NumPy array", "of a ref, ask for ref.get()")
    return _muster.is_pinned(array.__array_interface__["data"][0])


def seal(array: Any, *, timeout: float | None = None) -> Ref:
    """Makes an array of ``empty()`` an object, without a copy. The array becomes read-only.

    On a GPU, all work that this process has given to it is waited for first; in pinned memory, that of all GPUs.

    Makes one copy if the array has views or buffers, or references that may be one. The caller's variables, and items
    and attributes of plain containers that they lead to, do not count. Makes one copy of any other array, too.

    Raises:
        OutOfMemory: a copy was needed, and the store stayed full for ``timeout`` seconds (30 by default).
        Invalid: it is not an array that can be stored.
    """
    if array is None:
        raise Invalid("array=None is not an array", "give an array, for instance one of muster.empty()")
    return Ref(_muster.seal(_runtime.connection(), array, _CALLERS_REFERENCES, timeout))


def _references_that_a_call_holds() -> int:
    """Counts the references that the call itself holds on an argument, whatever the caller passed."""

    def called(array: Any) -> int:
        return sys.getrefcount(array)

    if getattr(sys, "_is_gil_enabled", lambda: True)() is False:
        return -1  # reference counts say nothing there
    variable = object()
    return min(called(object()), called(variable) - 1)


_CALLERS_REFERENCES = _references_that_a_call_holds()


def wait(
    items: Sequence[Ref | Work], num_returns: int = 1, timeout: float | None = None
) -> tuple[list[Ref | Work], list[Ref | Work]]:
    """Waits until ``num_returns`` of these refs and works are ready, or ``timeout`` seconds have passed.

    A ref is always ready. A work is ready when it is over, well or not. Returns (ready, pending), each in the given
    order. After a timeout fewer than ``num_returns`` are ready.

    Raises:
        Invalid: an item is neither a ref nor a work, or ``num_returns`` is not between 1 and the number of items.
    """
    if isinstance(items, (Ref, Work)) or not isinstance(items, Iterable):
        raise Invalid(f"items={items!r} is not valid", "give a list of refs and works: muster.wait([work])")
    everything = list(items)
    if not isinstance(num_returns, (int, np.integer)):
        raise Invalid(f"num_returns={num_returns!r} is not valid", "give a number of items, at least 1")
    if not 1 <= num_returns <= len(everything):
        raise Invalid(
            f"num_returns={num_returns} is out of range for {len(everything)} items",
            "ask for 1 up to the number of items",
        )
    for item in everything:
        if not isinstance(item, (Ref, Work)):
            raise Invalid(f"got {a_type_of(item)} among the items", "give refs and works")
    limit = _muster.seconds(timeout)
    deadline = math.inf if limit is None else time.monotonic() + limit
    connection = _runtime.connection()
    events = select.poll()
    events.register(connection.event_fd(), select.POLLIN)
    while True:
        ready = [isinstance(item, Ref) or item.done() for item in everything]
        left = deadline - time.monotonic()
        if sum(ready) >= num_returns or left <= 0:
            break
        # Polls in slices: another thread that waits may have read the outcomes, so the descriptor may stay silent.
        pause = min(_SLICE_S, left)
        if not any(
            isinstance(item, Work) and not over and item._lend_cpu(pause) for item, over in zip(everything, ready)
        ):
            events.poll(math.ceil(pause * 1000))
        connection.poll()
    return (
        [item for item, over in zip(everything, ready) if over],
        [item for item, over in zip(everything, ready) if not over],
    )
