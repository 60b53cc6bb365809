"""Writers that reference counts of arrays don't show: buffers, views of other libraries, helper objects."""

from __future__ import annotations

import asyncio
import collections
import ctypes
import dataclasses
import gc
import types
from typing import NamedTuple

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

KEPT: list = []


class Interface:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__


class Buffer(np.ndarray):
    pass


def made() -> np.ndarray:
    array = np.ones(64)
    KEPT.append(array)
    return array


def by_address() -> np.ndarray:
    array = made()
    return np.ctypeslib.as_array((ctypes.c_double * 64).from_address(array.ctypes.data))


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda: np.asarray(memoryview(made())), id="memoryview"),
        pytest.param(lambda: np.frombuffer(memoryview(made())), id="frombuffer of a memoryview"),
        pytest.param(lambda: np.frombuffer(made()), id="frombuffer"),
        pytest.param(lambda: as_strided(made()), id="as_strided"),
        pytest.param(lambda: np.from_dlpack(made()), id="DLPack"),
        pytest.param(lambda: np.ndarray(64, buffer=made()), id="ndarray over a buffer"),
        pytest.param(lambda: np.asarray(Interface(made())), id="__array_interface__"),
        pytest.param(lambda: np.ctypeslib.as_array(np.ctypeslib.as_ctypes(made())), id="ctypes"),
        pytest.param(by_address, id="ctypes by address"),
        pytest.param(lambda: made().view(Buffer).view(np.ndarray), id="view of a subclass"),
        pytest.param(lambda: np.asarray(memoryview(made()).cast("B").cast("d")), id="memoryview, cast"),
        pytest.param(lambda: np.lib.stride_tricks.sliding_window_view(made(), 64)[0], id="sliding window"),
        pytest.param(lambda: np.nditer(made(), op_flags=["readwrite"]).operands[0], id="nditer"),
        pytest.param(lambda: np.broadcast_to(made(), (1, 64))[0], id="broadcast_to"),
        pytest.param(lambda: made().flat.base, id="flat"),
        pytest.param(lambda: made().real, id="real"),
    ],
)
def test_a_writer_that_is_not_seen_gets_no_hold_of_the_store(muster, function):
    KEPT.clear()
    ref = muster.collective_input(function)()
    assert ref.copies == 1
    KEPT[0][:] = 99
    np.testing.assert_array_equal(ref.get(), np.ones(64))


def test_an_iterator_over_the_array_is_a_writer(muster):
    kept = []

    @muster.collective_input
    def make():
        array = np.ones(64)
        kept.append(array.flat)
        return array

    ref = make()
    assert ref.copies == 1
    kept[0][:] = 99
    np.testing.assert_array_equal(ref.get(), np.ones(64))


def test_a_buffer_of_the_array_is_a_writer(muster):
    kept = []

    @muster.collective_input
    def make():
        array = np.ones(64)
        kept.append(memoryview(array))
        return array

    ref = make()
    assert ref.copies == 1
    kept[0][0] = 99
    np.testing.assert_array_equal(ref.get(), np.ones(64))


def test_a_suspended_frame_is_a_writer(muster):
    """A suspended generator has the array as a local variable."""
    kept = []

    def rows():
        array = np.ones(64)
        yield array
        array[:] = 99

    @muster.collective_input
    def make():
        generator = rows()
        kept.append(generator)
        return next(generator)

    ref = make()
    assert ref.copies == 1
    assert next(kept[0], None) is None
    np.testing.assert_array_equal(ref.get(), np.ones(64))


# ---- holders that are in the tree, and kept outside as well ----


@dataclasses.dataclass
class State:
    weights: np.ndarray


@dataclasses.dataclass
class Slotted:
    __slots__ = ("weights",)
    weights: np.ndarray


class Pair(NamedTuple):
    left: np.ndarray
    right: np.ndarray


class Named(dict):
    pass


def keep(value):
    KEPT.append(value)
    return value


def part_of(flat: np.ndarray) -> np.ndarray:
    return keep(flat[:32])


def with_part(flat: np.ndarray) -> dict:
    return {"flat": flat, "part": part_of(flat)}


def two_views(flat: np.ndarray) -> list:
    return [keep(flat[:32]), flat[32:]]


def views_of_a_view(flat: np.ndarray) -> list:
    part = keep(flat[8:].reshape(7, 8))
    return [flat, part[1:], part]


def beside(hold):
    """Returns the array, and next to it a container with the array that is kept."""

    def make(array: np.ndarray) -> list:
        return [array, keep(hold(array))]

    return make


def dict_of_instance(array: np.ndarray) -> list:
    state = State(array)
    keep(state.__dict__)
    return [state, array]


def deep(array: np.ndarray) -> dict:
    inner = keep([array])
    return {"a": ({"b": [inner, array]},)}


def write(kept: object) -> None:
    """Writes through everything that leads to an array."""
    if isinstance(kept, np.ndarray):
        if kept.flags.writeable:  # the others are views of the store
            kept[:] = 99
        return
    for value in gc.get_referents(kept):
        if isinstance(value, (np.ndarray, dict, list, tuple, State)) and not isinstance(value, type):
            write(value)


def leaves(value: object) -> list:
    if isinstance(value, np.ndarray):
        return [value]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return [leaf for item in (value.values() if isinstance(value, dict) else value) for leaf in leaves(item)]


HELD = [
    pytest.param(with_part, 2, id="a view, and its base"),
    pytest.param(two_views, 2, id="one of two views"),
    pytest.param(views_of_a_view, 3, id="a reshaped view, and views of it"),
    pytest.param(beside(lambda array: {"a": array}), 2, id="a dict"),
    pytest.param(beside(lambda array: [array]), 2, id="a list"),
    pytest.param(beside(lambda array: (array,)), 2, id="a tuple"),
    pytest.param(beside(lambda array: Pair(array, array)), 3, id="a named tuple"),
    pytest.param(beside(lambda array: Named(a=array)), 2, id="a subclass of dict"),
    pytest.param(beside(lambda array: collections.OrderedDict(a=array)), 2, id="an ordered dict"),
    pytest.param(beside(State), 2, id="a dataclass"),
    pytest.param(beside(Slotted), 2, id="a dataclass with slots"),
    pytest.param(dict_of_instance, 2, id="the dict of an instance"),
    pytest.param(deep, 2, id="deep inside"),
    pytest.param(lambda array: keep({"a": array}), 1, id="the root"),
]


def check_kept(muster, ref, copies: int) -> None:
    assert ref.copies == copies
    expected = [leaf.copy() for leaf in leaves(ref.get())]
    for kept in KEPT:
        write(kept)
    assert all((leaf == 1).all() for leaf in expected)
    for leaf, before in zip(leaves(ref.get()), expected):
        np.testing.assert_array_equal(leaf, before)


@pytest.mark.parametrize(("make", "copies"), HELD)
def test_a_holder_in_the_tree_that_is_kept_outside_is_a_writer(muster, make, copies):
    KEPT.clear()
    check_kept(muster, muster.collective_input(lambda: make(np.ones(64)))(), copies)


@pytest.mark.parametrize(("make", "copies"), HELD)
def test_the_same_in_async_calls(muster, make, copies):
    @muster.collective_input
    async def call():
        array = np.ones(64)
        await asyncio.sleep(0)
        return make(array)

    KEPT.clear()
    check_kept(muster, asyncio.run(call()), copies)


@pytest.mark.parametrize(("make", "copies"), HELD)
def test_the_same_holders_cost_nothing_if_nobody_keeps_them(muster, monkeypatch, make, copies):
    monkeypatch.setitem(globals(), "keep", lambda value: value)
    assert muster.collective_input(lambda: make(np.ones(64)))().copies == 0


def test_only_what_can_be_reached_from_outside_is_copied(muster):
    KEPT.clear()

    @muster.collective_input
    def make():
        return {"free": [np.ones(64), np.ones(8)[2:]], "kept": keep({"a": np.ones(64), "b": [np.ones(64)]})}

    check_kept(muster, make(), 2)


# ---- writers that come to life when the result ends ----


class Revived(list):
    def __del__(self) -> None:
        KEPT.extend(self)


class RevivedState(State):
    def __del__(self) -> None:
        KEPT.append(self.weights)


class RevivedLater(Revived):
    pass


class RevivedBase(np.ndarray):
    def __del__(self) -> None:
        KEPT.append(self.view(np.ndarray))


def owned_by(kind: type, array: np.ndarray) -> np.ndarray:
    made = np.ndarray.__new__(kind, array.shape)
    made[:] = array
    return made


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda array: Revived([array]), id="list"),
        pytest.param(lambda array: RevivedLater([array]), id="a class that inherits it"),
        pytest.param(lambda array: (RevivedState(array),), id="dataclass"),
        pytest.param(lambda array: owned_by(RevivedBase, array)[:].view(np.ndarray), id="base"),
        pytest.param(lambda array: Revived([{"a": [array[1:]]}]), id="around containers"),
    ],
)
def test_a_finalizer_that_keeps_the_array_is_a_writer(muster, make):
    KEPT.clear()
    ref = muster.collective_input(lambda: make(np.ones(64)))()
    gc.collect()
    expected = [leaf.copy() for leaf in leaves(ref.get())]
    for kept in KEPT:
        write(kept)
    for leaf, before in zip(leaves(ref.get()), expected):
        np.testing.assert_array_equal(leaf, before)
        np.testing.assert_array_equal(leaf, np.ones(len(leaf)))


# ---- values that an instance supplies without holding them ----


class ByProperty(State):
    @property
    def weights(self) -> np.ndarray:
        return KEPT[0]

    @weights.setter
    def weights(self, value: np.ndarray) -> None:
        KEPT.append(value)


class ByGetattr(State):
    def __getattribute__(self, name: str) -> object:
        return KEPT[0] if name == "weights" else object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: np.ndarray) -> None:
        KEPT.append(value)


class BySlot(Slotted):
    """Has its parent's slot, but shows something else."""

    weights = property(lambda self: KEPT[0], lambda self, value: KEPT.append(value))


class ByIteration(list):
    def __iter__(self):
        return iter(KEPT[:1])


class Moving(State):
    """Moves its contents elsewhere when something reads it."""

    def __getattribute__(self, name: str) -> object:
        found = object.__getattribute__(self, name)
        if name == "weights":
            KEPT.append(found)
            object.__setattr__(self, "weights", None)
        return found


def by_iteration(array: np.ndarray) -> list:
    KEPT.append(array)
    return ByIteration([0])


@pytest.mark.parametrize("make", [ByProperty, ByGetattr, BySlot, Moving, by_iteration])
def test_a_value_that_its_holder_does_not_hold_has_other_owners(muster, make):
    KEPT.clear()
    ref = muster.collective_input(lambda: [make(np.ones(64))])()
    assert ref.copies == 1
    for kept in KEPT:
        write(kept)
    found = ref.get()[0]
    stored = found[0] if isinstance(found, list) else object.__getattribute__(found, "__dict__").get("weights")
    if stored is not None:
        np.testing.assert_array_equal(stored, np.ones(64))


class Thief:
    """Takes the array out of the container next to it while that is being stored."""

    def __init__(self, container: list) -> None:
        self.container = container

    def __array__(self, dtype=None, copy=None):
        KEPT.append(self.container.pop())
        return np.ones(2)


def test_an_array_that_changes_hands_while_it_is_stored_is_copied(muster):
    KEPT.clear()

    def make():
        inner = [np.ones(64)]
        return [inner, Thief(inner)]

    ref = muster.collective_input(make)()
    write(KEPT[0])
    np.testing.assert_array_equal(ref.get()[0][0], np.ones(64))


def test_a_module_is_no_container(muster):
    module = types.ModuleType("kept")

    @muster.collective_input
    def make():
        module.array = np.ones(64)
        return [module.array]

    ref = make()
    assert ref.copies == 1
    module.array[:] = 99
    np.testing.assert_array_equal(ref.get()[0], np.ones(64))
