"""Ways to keep a reference to a value that somebody else believes to own, and to write through it later.

Each function here gets an array or a container of arrays, and returns a function that writes through what it kept. It
keeps the value in one way only. It returns None if the way does not work for such a value.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import copy
import ctypes
import dataclasses
import functools
import itertools
import operator
import pickle
import queue
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

Write = Callable[[], None]
#: Programs never give this value to their arrays.
INK = 113


class Subclass(np.ndarray):
    pass


class Instance:
    def __init__(self, value: Any) -> None:
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def held_by(value: Any) -> list[Any]:
    """Returns what a container of a program holds."""
    if isinstance(value, dict):
        held = list(dict.values(value))
    elif isinstance(value, (list, tuple)):
        held = list(type(value).__mro__[-2].__iter__(value))
    else:
        held = []
    held += list(getattr(value, "__dict__", {}).values())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held += [getattr(value, field.name) for field in dataclasses.fields(value)]
    return held


def scribble(value: Any) -> None:
    """Writes to all arrays that can be reached from the value."""
    if isinstance(value, np.ndarray):
        while isinstance(value, np.ndarray):
            if value.flags.writeable:
                value[...] = ~value if value.dtype == bool else INK
            value = value.base
        return
    for held in held_by(value):
        scribble(held)


# ---- for arrays and containers ----


def in_list(value: Any) -> Write:
    kept = [value]
    return lambda: scribble(kept)


def in_dict(value: Any) -> Write:
    kept = {"value": value}
    return lambda: scribble(kept["value"])


def in_tuple(value: Any) -> Write:
    kept = (1, (value,))
    return lambda: scribble(kept)


def in_closure(value: Any) -> Write:
    return lambda: scribble(value)


def in_default_argument(value: Any) -> Write:
    def write(kept: Any = value) -> None:
        scribble(kept)

    return write


def in_keyword_default(value: Any) -> Write:
    def write(*, kept: Any = value) -> None:
        scribble(kept)

    return write


_numbers = itertools.count()


def in_global(value: Any) -> Write:
    name = f"kept_{next(_numbers)}"
    globals()[name] = value
    return lambda: scribble(globals().pop(name))


def in_module(value: Any) -> Write:
    module = types.ModuleType("kept")
    module.value = value
    return lambda: scribble(module.value)


def in_class(value: Any) -> Write:
    kind = type("Kept", (), {"value": value})
    return lambda: scribble(kind.value)


def in_instance(value: Any) -> Write:
    kept = Instance(value)
    return lambda: scribble(kept.value)


def in_dict_of_instance(value: Any) -> Write:
    kept = Instance(value).__dict__
    return lambda: scribble(kept["value"])


def in_slot(value: Any) -> Write:
    kept = Slotted(value)
    return lambda: scribble(kept.value)


def in_namespace(value: Any) -> Write:
    kept = types.SimpleNamespace(value=value)
    return lambda: scribble(kept.value)


def in_partial(value: Any) -> Write:
    return functools.partial(scribble, value)


def in_methodcaller(value: Any) -> Write:
    call = operator.methodcaller("write", value)
    return lambda: call(types.SimpleNamespace(write=scribble))


def in_object_array(value: Any) -> Write:
    kept = np.empty(1, object)
    kept[0] = value
    return lambda: scribble(kept[0])


def in_deque(value: Any) -> Write:
    kept = collections.deque([value])
    return lambda: scribble(kept.pop())


def in_queue(value: Any) -> Write:
    kept: queue.SimpleQueue[Any] = queue.SimpleQueue()
    kept.put(value)
    return lambda: scribble(kept.get())


def in_cycle(value: Any) -> Write:
    kept: list[Any] = [value]
    kept.append(kept)
    return lambda: scribble(kept[1][0])


def in_iterator(value: Any) -> Write:
    kept = itertools.chain([value])
    return lambda: scribble(next(kept))


def in_generator(value: Any) -> Write:
    def write(kept: Any) -> Any:
        yield
        scribble(kept)

    generator = write(value)
    next(generator)
    return lambda: next(generator, None)


def in_generator_not_begun(value: Any) -> Write:
    def write(kept: Any) -> Any:
        scribble(kept)
        yield

    generator = write(value)
    return lambda: next(generator)


@types.coroutine
def _pause() -> Any:
    yield


def in_coroutine(value: Any) -> Write:
    async def write(kept: Any) -> None:
        await _pause()
        scribble(kept)

    coroutine = write(value)
    coroutine.send(None)

    def go_on() -> None:
        with contextlib.suppress(StopIteration):
            coroutine.send(None)

    return go_on


def in_traceback(value: Any) -> Write:
    def fail(kept: Any) -> None:
        raise ValueError("kept by the traceback")

    try:
        fail(value)
    except ValueError as error:
        traceback = error.__traceback__.tb_next
    return lambda: scribble(traceback.tb_frame.f_locals["kept"])


def in_exception(value: Any) -> Write:
    kept = ValueError(value)
    return lambda: scribble(kept.args[0])


def in_context_of_exception(value: Any) -> Write:
    try:
        try:
            raise KeyError(value)
        except KeyError:
            raise ValueError("another") from None
    except ValueError as error:
        kept = error.__context__
    kept.__traceback__ = None
    return lambda: scribble(kept.args[0])


def in_frame(value: Any) -> Write:
    def frame(kept: Any) -> types.FrameType:
        return sys._getframe()

    kept = frame(value)
    return lambda: scribble(kept.f_locals["kept"])


def in_traced_frame(value: Any) -> Write:
    frames: list[types.FrameType] = []

    def called(kept: Any) -> None:
        pass

    def profile(frame: types.FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is called.__code__:
            frames.append(frame)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        called(value)
    finally:
        sys.setprofile(before)
    return lambda: scribble(frames[0].f_locals["kept"])


def in_thread(value: Any) -> Write:
    begun, go_on = threading.Event(), threading.Event()

    def write(kept: Any) -> None:
        begun.set()
        go_on.wait()
        scribble(kept)

    thread = threading.Thread(target=write, args=(value,), daemon=True)
    thread.start()
    begun.wait()

    def finish() -> None:
        go_on.set()
        thread.join()

    return finish


def in_thread_local(value: Any) -> Write:
    kept = threading.local()
    kept.value = value
    return lambda: scribble(kept.value)


def in_context_variable(value: Any) -> Write:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("kept")
    context = contextvars.copy_context()
    context.run(variable.set, value)
    return lambda: scribble(context[variable])


def in_lru_cache(value: Any) -> Write:
    made = [value]

    @functools.lru_cache
    def cached() -> Any:
        return made.pop()

    cached()
    return lambda: scribble(cached())


def in_cached_property(value: Any) -> Write:
    class Owner:
        @functools.cached_property
        def value(self) -> Any:
            return made.pop()

    made = [value]
    owner = Owner()
    assert owner.value is not None
    return lambda: scribble(owner.value)


def in_future(value: Any) -> Write:
    """Keeps it as a finished task keeps its result."""
    kept = asyncio.Future(loop=LOOP)
    kept.set_result(value)
    return lambda: scribble(kept.result())


LOOP = asyncio.new_event_loop()


def in_finalizer(value: Any) -> Write:
    watched = [Instance(None)]
    weakref.finalize(watched[0], scribble, value)
    return watched.clear


def weakly(value: Any) -> Write | None:
    try:
        kept = weakref.ref(value)
    except TypeError:
        return None
    return lambda: scribble(kept())


def in_weak_dict(value: Any) -> Write | None:
    kept: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
    try:
        kept["value"] = value
    except TypeError:
        return None
    return lambda: scribble(kept.get("value"))


# ---- for containers ----


def by_values(value: Any) -> Write | None:
    kept = value.values() if type(value) is dict else None
    return None if kept is None else lambda: scribble(list(kept))


def by_iteration(value: Any) -> Write | None:
    kept = iter(value) if type(value) in (list, tuple) else None
    return None if kept is None else lambda: scribble(list(kept))


def by_proxy(value: Any) -> Write | None:
    kept = types.MappingProxyType(value) if type(value) is dict else None
    return None if kept is None else lambda: scribble(list(kept.values()))


def by_bound_method(value: Any) -> Write | None:
    if type(value) is list:
        kept = value.copy
    elif type(value) is dict:
        kept = value.values
    else:
        return None
    return lambda: scribble(list(kept()))


def by_its_dict(value: Any) -> Write | None:
    if not dataclasses.is_dataclass(value) or not hasattr(value, "__dict__"):
        return None
    kept = value.__dict__
    return lambda: scribble(kept)


def by_shallow_copy(value: Any) -> Write | None:
    kept = copy.copy(value) if type(value) in (list, dict) else None
    return None if kept is None else lambda: scribble(kept)


# ---- for arrays ----


def by_view(value: Any) -> Write | None:
    return in_list(value[...]) if isinstance(value, np.ndarray) else None


def by_part(value: Any) -> Write | None:
    return in_list(value[:1]) if isinstance(value, np.ndarray) and value.ndim else None


def by_reshape(value: Any) -> Write | None:
    return in_list(value.reshape(-1)) if isinstance(value, np.ndarray) and value.flags.c_contiguous else None


def by_transpose(value: Any) -> Write | None:
    return in_list(value.T) if isinstance(value, np.ndarray) else None


def by_other_dtype(value: Any) -> Write | None:
    fits = isinstance(value, np.ndarray) and value.itemsize in (1, 2, 4, 8)
    return in_list(value.view(f"i{value.itemsize}")) if fits else None


def by_base(value: Any) -> Write | None:
    return in_list(value.base) if isinstance(value, np.ndarray) and value.base is not None else None


def by_subclass(value: Any) -> Write | None:
    return in_list(value.view(Subclass)) if isinstance(value, np.ndarray) else None


def by_real_part(value: Any) -> Write | None:
    return in_list(value.real) if isinstance(value, np.ndarray) and value.dtype.kind == "c" else None


def _over(buffer: Any) -> Write:
    return lambda: scribble(np.asarray(buffer))


def by_memoryview(value: Any) -> Write | None:
    return _over(memoryview(value)) if isinstance(value, np.ndarray) else None


def by_cast_memoryview(value: Any) -> Write | None:
    fits = isinstance(value, np.ndarray) and value.flags.c_contiguous and value.ndim and value.size
    return _over(memoryview(value).cast("B")) if fits else None


def by_pickle_buffer(value: Any) -> Write | None:
    if not isinstance(value, np.ndarray) or not value.flags.c_contiguous:
        return None
    kept = pickle.PickleBuffer(value)
    return lambda: scribble(np.frombuffer(kept.raw(), np.uint8))


def by_frombuffer(value: Any) -> Write | None:
    fits = isinstance(value, np.ndarray) and value.flags.c_contiguous and value.size
    return in_list(np.frombuffer(value, np.uint8)) if fits else None


def by_dlpack(value: Any) -> Write | None:
    if not isinstance(value, np.ndarray) or value.size == 0:
        return None
    kept = np.from_dlpack(value)
    if not kept.flags.writeable:  # NumPy before 2.1
        return None
    return in_list(kept)


class Capsule:
    def __init__(self, array: np.ndarray) -> None:
        self.capsule = array.__dlpack__()

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def by_capsule(value: Any) -> Write | None:
    kept = Capsule(value) if isinstance(value, np.ndarray) and value.size else None
    return None if kept is None else lambda: scribble(np.from_dlpack(kept))


def by_strides(value: Any) -> Write | None:
    return in_list(as_strided(value)) if isinstance(value, np.ndarray) else None


def by_flat_iterator(value: Any) -> Write | None:
    if not isinstance(value, np.ndarray) or value.dtype == bool:
        return None
    kept = value.flat

    def write() -> None:
        kept[:] = INK

    return write


def by_iterator(value: Any) -> Write | None:
    if not isinstance(value, np.ndarray) or value.size == 0 or value.dtype == bool:
        return None
    kept = np.nditer(value, op_flags=["readwrite"])

    def write() -> None:
        for element in kept:
            element[...] = INK

    return write


def by_ctypes(value: Any) -> Write | None:
    fits = isinstance(value, np.ndarray) and value.flags.c_contiguous and value.size and value.dtype.char in "dfqihB"
    if not fits:
        return None
    kept = np.ctypeslib.as_ctypes(value)

    def write() -> None:
        ctypes.memset(ctypes.addressof(kept), INK, ctypes.sizeof(kept))

    return write


def by_interface(value: Any) -> Write | None:
    if not isinstance(value, np.ndarray):
        return None
    kept = Instance(value)
    kept.__array_interface__ = value.__array_interface__
    return _over(kept)


def by_method(value: Any) -> Write | None:
    if not isinstance(value, np.ndarray) or value.dtype == bool:
        return None
    kept = value.fill
    return lambda: kept(INK)


WAYS: list[Callable[[Any], Write | None]] = [
    one
    for name, one in list(globals().items())
    if name.startswith(("in_", "by_", "weakly")) and isinstance(one, types.FunctionType)
]

#: A frame leads to the frames that called it, and these lead to all their variables.
KEEPS_CALLERS = [in_frame, in_traced_frame, in_traceback]
KEEPS_NOTHING = [weakly, in_weak_dict]
