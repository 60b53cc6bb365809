"""What may nest: each container comes back as what it was, and its arrays are reduced like any others."""

from __future__ import annotations

import collections
import dataclasses
import gc
import types
from typing import NamedTuple

import numpy as np
import pytest
from muster import Invalid


class Row(list):
    pass


class Point(tuple):
    __slots__ = ()


class Named(dict):
    pass


class Pair(NamedTuple):
    left: np.ndarray
    right: np.ndarray


@dataclasses.dataclass
class State:
    step: int
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Frozen:
    weights: np.ndarray


def ordered() -> collections.OrderedDict:
    return collections.OrderedDict(b=np.full(3, 2.0), a=np.full(2, 1.0))


MAKERS = [
    dict,
    lambda: {"a": np.ones(3), 7: [np.zeros(2)], (1, "x"): ()},
    lambda: [np.ones(3), (np.ones(2), {"k": np.ones(1)})],
    ordered,
    lambda: collections.defaultdict(list, a=np.ones(3)),
    lambda: Row([np.ones(3)]),
    lambda: Point((np.ones(3), np.ones(1))),
    lambda: Named(x=np.ones(3)),
    lambda: Pair(np.ones(3), np.zeros(2)),
    lambda: State(3, np.ones(3)),
    lambda: Frozen(np.ones(3)),
    lambda: {"none": None, "text": "x", "array": np.ones(2)},
]


def same(left, right) -> None:
    assert type(left) is type(right)
    if isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right)
    elif dataclasses.is_dataclass(left):
        same(vars(left), vars(right))
    elif isinstance(left, dict):
        assert list(left) == list(right)
        same(list(left.values()), list(right.values()))
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right):
            same(one, other)
    else:
        assert left == right


@pytest.mark.parametrize("make", MAKERS)
def test_a_container_comes_back_as_what_it_was(muster, make):
    ref = muster.collective_input(make)()
    assert ref.copies == 0
    got = ref.get()
    if isinstance(got, State):
        assert got.step == 3
        got.step = int(got.step)
    same(got, make())


def test_a_default_factory_stays(muster):
    got = muster.put(collections.defaultdict(list, a=np.ones(3))).get()
    assert got["missing"] == []


@pytest.mark.parametrize(
    "make", [ordered, lambda: Row([np.ones(3)]), lambda: Named(x=np.ones(3)), lambda: Point((np.ones(3),))]
)
def test_arrays_in_subclasses_are_reduced(muster, make):
    refs = [muster.put(make()) for _ in range(3)]
    got = muster.allreduce_refs(refs, op="sum").result()
    assert type(got) is type(make())
    for one, other in zip(
        list(got.values()) if isinstance(got, dict) else got,
        list(make().values()) if isinstance(make(), dict) else make(),
    ):
        np.testing.assert_array_equal(one, other * 3)


class Opaque:
    def __init__(self) -> None:
        self.array = np.ones(3)


@pytest.mark.parametrize(
    "make",
    [
        Opaque,
        lambda: {"o": Opaque()},
        lambda: np.ma.masked_array([1.0, 2.0], [False, True]),
        lambda: {"f": lambda: 1},
        lambda: "x" * 1_000_000,
        lambda: types.MappingProxyType({"a": np.ones(3)}),
        lambda: np.longdouble(3),
    ],
)
def test_what_would_lose_its_arrays_is_refused(muster, make):
    with pytest.raises(Invalid):
        muster.collective_input(make)()


def test_nothing_at_all_is_a_value(muster):
    assert muster.put(None).get() is None
    assert muster.collective_input(lambda: None)().get() is None


class Clearing:
    """Changes the container that it lies in while that is taken apart."""

    def __init__(self, container) -> None:
        self.container = container

    def __array__(self, dtype=None, copy=None):
        self.container.clear()
        gc.collect()
        return np.ones(2)


@pytest.mark.parametrize("container", [[], {}], ids=["list", "dict"])
def test_a_container_that_changes_while_it_is_stored_is_stored_as_it_was(muster, container):
    values = [Clearing(container), *(np.full(100, value) for value in range(200))]
    expected = values[1:]
    if isinstance(container, dict):
        container.update(enumerate(values))
    else:
        container.extend(values)
    expected = [array.copy() for array in expected]
    del values
    got = muster.put(container).get()
    found = list(got.values()) if isinstance(got, dict) else got
    assert len(found) == 201
    for one, array in zip(found[1:], expected):
        np.testing.assert_array_equal(one, array)


@pytest.mark.parametrize("kind", [np.ndarray, np.float32, State])
def test_a_class_is_a_constant(muster, kind):
    assert muster.put({"kind": kind, "x": np.ones(2)}).get()["kind"] is kind
