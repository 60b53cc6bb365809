"""Which containers may nest: each comes back as the same type, and its arrays are reduced like any others."""

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
    """Changes the container that it is in while that is taken apart."""

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


def test_a_number_and_an_array_without_dimensions_are_alike(muster):
    refs = [muster.put({"loss": loss}) for loss in (1.0, np.float64(2.0), np.array(4.0))]
    assert muster.allreduce_refs(refs).result()["loss"] == 7.0


def test_keys_in_another_order_are_the_same_dict(muster):
    one = muster.put({"w": np.full(2, 1.0), "b": np.full(3, 10.0), 3: {"y": np.ones(1), "x": np.zeros(1)}})
    other = muster.put({3: {"x": np.zeros(1), "y": np.ones(1)}, "b": np.full(3, 20.0), "w": np.full(2, 2.0)})
    for refs in ([one, other], [other, one]):
        got = muster.allreduce_refs(refs).result()
        assert got["w"].tolist() == [3.0, 3.0]
        assert got["b"].tolist() == [30.0] * 3
        assert (got[3]["x"].tolist(), got[3]["y"].tolist()) == ([0.0], [2.0])
        assert list(got) == list(refs[0].get())
    assert list(one.get()) == ["w", "b", 3]
    assert list(one.get()[3]) == ["y", "x"]


def matrix(*row: float) -> np.matrix:
    return np.array([row]).view(np.matrix)  # np.matrix() would warn


def test_parts_of_a_list_keep_what_they_were(muster):
    refs = [muster.put([{"z": matrix(1.0), "a": np.ones(1)}, matrix(2.0, 3.0)]) for _ in range(2)]
    first, second = muster.all_to_all_refs(refs).result()
    assert list(first[0]) == ["z", "a"]
    assert isinstance(first[1]["z"], np.matrix)
    assert [type(part) for part in second] == [np.matrix, np.matrix]


def test_a_matrix_stays_one(muster):
    got = muster.put({"m": matrix(1.0, 2.0)}).get()["m"]
    assert isinstance(got, np.matrix)
    assert not got.flags.writeable
    assert isinstance(muster.put(matrix(1, 2)).get(), np.matrix)
    reduced = muster.allreduce_refs([muster.put(matrix(1, 2)), muster.put(np.array([[3, 4]]))]).result()
    assert reduced.tolist() == [[4, 6]]


def test_another_byte_order_costs_one_copy(muster):
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    for made in (array, array.T, array[:, ::2], np.asfortranarray(array)):
        ref = muster.put(made)
        assert (ref.copies, ref.get().dtype) == (1, np.dtype("<f4"))
        assert ref.get().tolist() == made.tolist()

    @muster.collective_input
    def produce():
        return np.ones(100, ">f8").view(">f8")

    ref = produce()
    assert (ref.copies, ref.get().sum()) == (1, 100.0)
    memory = muster.empty(4, np.float32)
    memory[:] = 1
    assert muster.seal(memory.view(">i4")).get().tolist() == memory.view(">i4").tolist()
    with pytest.raises(Invalid, match="stored"):
        muster.empty(4, ">f4")


def test_a_hostile_key_is_shown_byte_by_byte(muster):
    refs = [muster.put({key: np.ones(1)}) for key in ("\x1b[2J\ud800", "b")]
    with pytest.raises(muster.Mismatch) as error:
        muster.allreduce_refs(refs).result()
    assert str(error.value).isprintable()
    assert "\\x1b[2J" in str(error.value)
