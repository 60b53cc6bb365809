"""The format of an object's nesting: what is written can be read back, and reading runs no code."""

from __future__ import annotations

import array
import collections
import contextlib
import ctypes
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import math
import re
import struct
import sys
import types
import uuid
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from muster import Denied, Invalid, _muster

DEPTH_MAX = 200
RAN: list[str] = []


@dataclasses.dataclass
class Checked:
    name: str
    array: np.ndarray

    def __post_init__(self) -> None:
        RAN.append("__post_init__")


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("left", "right")
    left: np.ndarray
    right: str


@dataclasses.dataclass
class Careful:
    """Its field is a property, so setting it runs code."""

    _hidden: str = ""

    def __setattr__(self, name, value):
        RAN.append(f"__setattr__ {name}")
        object.__setattr__(self, name, value)


@dataclasses.dataclass
class Removing:
    path: str

    def __del__(self) -> None:
        RAN.append(f"__del__ {self.path}")


class Pair(NamedTuple):
    left: np.ndarray
    right: str


class Loud(Pair):
    def __new__(cls, left, right):
        RAN.append("__new__")
        return super().__new__(cls, left, right)


class Settings(dict):
    def __setitem__(self, key, value):
        RAN.append("__setitem__")
        super().__setitem__(key, value)


class Row(list):
    pass


class Ordinary:
    def __init__(self) -> None:
        RAN.append("__init__")


class Color(enum.Enum):
    RED = 1


class Planted:
    def __reduce__(self):
        return (RAN.append, ("unpickled",))


@pytest.fixture(autouse=True)
def nothing_ran(muster):
    RAN.clear()


def back(value, data_only: bool = True):
    return _muster.put_together(*_muster.take_apart(value), data_only)


def canonical(item) -> str:
    """Returns the repr, with the items of sets in order."""
    if isinstance(item, tuple):
        return f"({[canonical(one) for one in item]})"
    if isinstance(item, (set, frozenset)):
        return f"{type(item)}{sorted(canonical(one) for one in item)}"
    return repr(item)


def same(left, right) -> bool:
    """Equal in type, order and bits; NaNs are equal."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, (set, frozenset)):
        return canonical(left) == canonical(right)
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return left == right


texts = st.text(st.characters(exclude_categories=[]), max_size=8)  # lone surrogates, too
plain = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=8)
keys = st.recursive(
    plain | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
arrays = st.lists(st.floats(width=32), max_size=3).map(lambda values: np.array(values, np.float32))
values = st.recursive(
    arrays | st.none() | texts | st.binary(max_size=8) | st.sets(keys, max_size=3) | st.frozensets(keys, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.lists(inner, max_size=3).map(Row)
        | st.dictionaries(texts, inner, max_size=3).map(collections.OrderedDict)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=20,
)


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(values, st.booleans())
def test_a_nesting_comes_back_as_it_was(value, data_only):
    assert same(back(value, data_only), value)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.sets(keys, max_size=6), st.randoms())
def test_equal_sets_have_equal_structures(items, random):
    order = list(items)
    random.shuffle(order)
    assert _muster.take_apart(set(order)) == _muster.take_apart(items)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.dictionaries(keys, arrays, max_size=6), st.randoms())
def test_dicts_with_equal_keys_have_equal_structures_and_keep_their_own_order(items, random):
    order = list(items)
    random.shuffle(order)
    shuffled = {"in a list": [{key: items[key] for key in order}, {key: items[key] for key in order[::-1]}]}
    assert _muster.take_apart(shuffled)[0] == _muster.take_apart({"in a list": [items, items]})[0]
    assert same(back(shuffled), shuffled)


words = st.text("abcxyz_", min_size=1, max_size=4)
named = st.recursive(
    st.builds(np.zeros, st.just(1)) | st.none() | words,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(words | st.integers(0, 9), inner, max_size=4)
        | st.dictionaries(words, inner, max_size=3).map(collections.OrderedDict)
        | st.builds(Pair, inner, inner)
        | st.builds(Slotted, inner, inner)
    ),
    max_leaves=20,
)


def at(value, path: str):
    """Returns what a path leads to, such as layer2.w or [3].b."""
    for name, index in re.findall(r"(\w+)|\[(\w+)\]", path.replace("].", "]")):
        if isinstance(value, dict):
            value = value[name or int(index)]
        else:
            value = getattr(value, name) if name else value[int(index)]
    return value


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(named)
def test_the_path_of_a_leaf_leads_to_it(value):
    structure, _, leaves = _muster.take_apart(value)
    paths = _muster.leaf_paths(structure)
    assert len(set(paths)) == len(leaves)
    for path, leaf in zip(paths, leaves):
        assert at(value, path) is leaf


def without(value, leaf):
    """Returns the value with None in the place of that leaf."""
    if value is leaf:
        return None
    if isinstance(value, dict):
        return type(value)((key, without(item, leaf)) for key, item in value.items())
    if isinstance(value, Pair):
        return Pair(*(without(item, leaf) for item in value))
    if isinstance(value, Slotted):
        return Slotted(without(value.left, leaf), without(value.right, leaf))
    return type(value)(without(item, leaf) for item in value) if isinstance(value, (list, tuple)) else value


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(named, st.integers(0))
def test_two_structures_differ_where_their_values_do(value, which):
    structure, _, leaves = _muster.take_apart(value)
    assert _muster.structure_difference(structure, structure) is None
    if leaves:
        place = which % len(leaves)
        other = _muster.take_apart(without(value, leaves[place]))[0]
        path = _muster.leaf_paths(structure)[place]
        assert _muster.structure_difference(structure, other) == (path, "an array", "None")
        assert _muster.structure_difference(other, structure) == (path, "None", "an array")


def read_anything(structure: bytes, guise: bytes = b"", leaves: int = 3) -> None:
    """Reads the bytes: that gives a value or a typed error, and never unpickles."""
    with contextlib.suppress(Invalid, Denied):
        _muster.put_together(structure, guise, [np.zeros(1)] * leaves, True)
    with contextlib.suppress(Invalid):
        _muster.leaf_paths(structure)
    with contextlib.suppress(Invalid):
        _muster.structure_difference(structure, _muster.take_apart([np.zeros(1)])[0])


LETTERS = b"ADLUKZtfircsyFEPGnd"


@hypothesis.settings(max_examples=2000, deadline=None)
@hypothesis.given(
    st.binary(max_size=200)
    | st.lists(
        st.sampled_from([bytes([letter]) for letter in LETTERS])
        | st.integers(0, 4).map(lambda number: struct.pack("<I", number))
        | st.sampled_from([b"\xff\xff\xff\xff", struct.pack("<I", 8) + bytes(8)]),
        max_size=40,
    ).map(b"".join)
)
def test_any_bytes_are_read_or_refused(structure):
    read_anything(structure)


@hypothesis.settings(max_examples=500, deadline=None)
@hypothesis.given(values, st.integers(0), st.integers(0, 255), st.booleans())
def test_a_damaged_structure_is_read_or_refused(value, at, byte, cut):
    structure, guise, _ = _muster.take_apart(value)
    damaged = bytearray(structure)
    if damaged:
        damaged[at % len(damaged)] = byte
    read_anything(bytes(damaged[: at % (len(damaged) + 1)] if cut else damaged), guise, leaves=50)
    damaged = bytearray(guise)
    if damaged:
        damaged[at % len(damaged)] = byte
    read_anything(structure, bytes(damaged[: at % (len(damaged) + 1)] if cut else damaged), leaves=50)


@pytest.mark.parametrize("letter", [b"L", b"U", b"F", b"E", b"D"])
def test_no_structure_is_deeper_than_its_writers_make_it(letter):
    one = struct.pack("<I", 1)
    step = letter + one + (b"Z" if letter == b"D" else b"")
    for depth in (DEPTH_MAX + 1, 100_000, 800_000):
        with pytest.raises(Invalid, match="damaged"):
            _muster.put_together(step * depth + b"Z", b"", [], True)


def nested(depth: int):
    value: object = np.zeros(1)
    for _ in range(depth):
        value = [value]
    return value


def test_the_deepest_value_that_can_be_written_can_be_read():
    assert same(back(nested(DEPTH_MAX)), nested(DEPTH_MAX))
    with pytest.raises(Invalid, match="deeper"):
        _muster.take_apart(nested(DEPTH_MAX + 1))
    key: object = 1
    for _ in range(DEPTH_MAX + 1):
        key = (key,)
    with pytest.raises(Invalid, match="deeper"):
        _muster.take_apart({key: 1})


def test_counts_are_not_believed():
    for letter in b"LUDFE":
        with pytest.raises(Invalid, match="damaged"):
            _muster.put_together(bytes([letter]) + b"\xff\xff\xff\xff" + b"Z" * 10, b"", [], True)


@pytest.mark.parametrize(
    "value", [datetime.date(2020, 1, 1), Color.RED, range(3), np.float32, Planted(), re.compile("a+")]
)
def test_what_is_no_data_comes_back_to_its_own_user_only(value):
    if not isinstance(value, Planted):
        assert back({"x": value}, data_only=False) == {"x": value}
    for holder in ({"x": value}, {value: 1} if value.__hash__ else [value], [frozenset([value])]):
        taken_apart = _muster.take_apart(holder)
        with pytest.raises(Denied, match=type(value).__name__) as caught:
            _muster.put_together(*taken_apart, True)
        assert "plain data" in caught.value.hint
    assert RAN == []


class Level(enum.IntEnum):
    LOW = 1


class Exact(int):
    pass


class Calls:
    def method(self) -> None: ...


@pytest.mark.parametrize(
    "function",
    [math.sqrt, len, Calls().method, test_equal_sets_have_equal_structures, functools.partial(int, 3), np.add],
)
def test_a_function_is_refused_wherever_it_is(muster, function):
    for value in (function, [function], {"w": np.ones(2), "b": function}, Pair(np.ones(1), function), {function}):
        with pytest.raises(Invalid, match="a function can't be stored") as error:
            muster.put(value)
        assert error.value.hint == "did you mean to call it?"
    with pytest.raises(Invalid, match="a function can't be stored"):
        muster.collective_input(lambda: function)()


@pytest.mark.parametrize(
    "value",
    [
        decimal.Decimal("1.5"),
        fractions.Fraction(1, 2),
        Exact(3),
        ctypes.c_double(1.5),
        ctypes.c_int(1),
        array.array("d", [1, 2]),
        collections.deque([1.0, 2.0]),
        (ctypes.c_float * 2)(1, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numbers_that_no_op_could_reduce_are_refused(value):
    for held in (value, {"w": [value]}):
        with pytest.raises(Invalid, match="no op could reduce it") as error:
            _muster.take_apart(held)
        assert "value)" in error.value.hint


@pytest.mark.parametrize(
    "value", [array.array("u", "ab"), collections.deque(["a"]), Level.LOW, uuid.UUID(int=1), range(3)]
)
def test_what_is_no_number_is_a_constant(value):
    structure, guise, _ = _muster.take_apart({"w": value})
    assert _muster.put_together(structure, guise, [], False) == {"w": value}


@pytest.mark.parametrize("make", [lambda: map(abs, [1]), lambda: zip([1]), lambda: iter([1]), lambda: (i for i in [1])])
def test_an_iterator_is_refused_wherever_it_is(muster, make):
    for value in (make(), [make()], {"w": make()}):
        with pytest.raises(Invalid, match=r"an iterator \(\w+\) can't be stored") as error:
            muster.put(value)
        assert error.value.hint == "make a list of it"


def test_classes_and_other_constants_are_kept(muster):
    lists = collections.defaultdict(collections.Counter, {"a": np.ones(2)})
    value = {"class": collections.Counter, "range": range(3), "pattern": re.compile("a+"), "lists": lists}
    back = muster.put(value).get()
    assert (back["class"], back["range"], back["pattern"]) == (collections.Counter, range(3), re.compile("a+"))
    assert back["lists"].default_factory is collections.Counter


def test_a_class_is_built_without_its_help():
    array = np.ones(2)
    checked = back(Checked("x", array))
    RAN.remove("__post_init__")  # from the original instance
    assert type(checked) is Checked
    assert checked.array is array
    assert checked.name == "x"
    slotted = back(Slotted(array, "r"))
    assert type(slotted) is Slotted
    assert slotted.left is array
    assert slotted.right == "r"
    careful = Careful("y")
    RAN.clear()
    assert back(careful) == careful
    loud = Loud(array, "r")
    RAN.clear()
    assert type(back(loud)) is Loud
    settings = Settings(a=array)
    RAN.clear()
    assert type(back(settings)) is Settings
    assert back(settings)["a"] is array
    assert RAN == []


def test_a_class_that_would_run_at_its_end_is_not_made():
    assert back(Removing("/nowhere")) == {"path": "/nowhere"}
    assert RAN == ["__del__ /nowhere"]  # from the original instance


def instance(
    form: bytes, module: str, name: str, fields: list[str] = (), values: bytes = b"", factory: bytes = b""
) -> bytes:
    def text(word: str) -> bytes:
        return struct.pack("<I", len(word)) + word.encode()

    return (
        b"K"
        + form
        + text(module)
        + text(name)
        + factory
        + struct.pack("<I", len(fields))
        + b"".join(map(text, fields))
        + values
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("no_such_module", "Thing"),
        ("antigravity", "Thing"),  # would open a browser
        (__name__, "Ordinary"),
        (__name__, "RAN"),
        (__name__, "Nothing"),
        (__name__, "Checked.__post_init__"),
        (__name__, ""),
        ("builtins", "eval"),
        ("builtins", "dict"),
        ("os", "system"),
    ],
)
def test_a_name_that_is_no_such_class_here_gives_plain_data(module, name):
    was_imported = "antigravity" in sys.modules
    for form, expected in ((b"d", {"a": None, "b": "x"}), (b"n", (None, "x"))):
        structure = instance(form, module, name, ["a", "b"], b"Zs\x01\0\0\0x")
        got = _muster.put_together(structure, b"", [], True)
        assert type(got) is type(expected)
        assert got == expected
    assert ("antigravity" in sys.modules) == was_imported
    assert RAN == []


@pytest.mark.parametrize("fields", [["name"], ["name", "__class__"], ["name", "array", "more"], ["array", "__dict__"]])
def test_only_the_fields_of_a_class_are_set(fields):
    got = _muster.put_together(instance(b"d", __name__, "Checked", fields, b"Z" * len(fields)), b"", [], True)
    assert got == dict.fromkeys(fields)


def test_a_modules_own_getattr_is_not_asked(monkeypatch):
    module = types.ModuleType("lazy")
    module.__getattr__ = lambda name: RAN.append(name)  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy", module)
    assert _muster.put_together(instance(b"d", "lazy", "Thing", ["a"], b"Z"), b"", [], True) == {"a": None}
    assert RAN == []


def test_subclasses_of_containers_come_back(muster):
    for value in (Row([1.5]), collections.OrderedDict(b=None, a="x"), collections.defaultdict(list, a="x")):
        got = back(value)
        assert type(got) is type(value)
        assert got == value
    assert back(collections.defaultdict(list))["missing"] == []
    got = back(collections.defaultdict(Ordinary, a="x"))
    assert type(got) is dict
    assert got == {"a": "x"}
    assert back(collections.defaultdict(Ordinary, a="x"), data_only=False).default_factory is Ordinary


def test_keys_with_equal_hashes_are_bounded():
    modulus = sys.hash_info.modulus
    taken_apart = _muster.take_apart(dict.fromkeys(n * modulus for n in range(5000)))
    with pytest.raises(Denied, match="keys"):
        _muster.put_together(*taken_apart, True)
    assert len(_muster.put_together(*taken_apart, False)) == 5000
    assert len(back({str(n): None for n in range(5000)})) == 5000


def test_a_structure_is_readable(muster):
    assert muster.put({"w": np.ones(1), 1: [None, "x"]}).structure == "{1: [None, 'x'], 'w': *}"
    assert muster.put({"\ud800": None}).structure.startswith("{'")


def put_in_orders(*orders: list[int], which=0, kinds: bytes = b""):
    """Reads a dict of 3 leaves with this guise."""
    structure, _, leaves = _muster.take_apart({key: np.array([i]) for i, key in enumerate("abc")})
    guise = struct.pack("<I", len(kinds)) + kinds
    for order in orders:
        guise += struct.pack(f"<II{len(order)}I", which, len(order), *order)
    return list(_muster.put_together(structure, guise, leaves, True))


def test_a_guise_is_not_believed():
    assert put_in_orders([2, 0, 1]) == ["c", "a", "b"]
    assert put_in_orders([2, 0, 1], which=1) == ["a", "b", "c"]  # there is no such dict
    for order in ([0, 0, 1], [0, 1, 3], [0, 1], [0, 1, 2, 3], [0xFFFFFFFF, 0, 1]):
        with pytest.raises(Invalid, match="damaged"):
            put_in_orders(order)
    with pytest.raises(Invalid, match="damaged"):
        put_in_orders([2, 0, 1], [2, 0, 1])  # twice the same dict
    for kinds in (b"A", b"AAQ"):
        with pytest.raises(Invalid, match="damaged"):
            put_in_orders(kinds=kinds)


class Tagged(dict):
    """A container class of the user."""


UNSTORABLE = {
    "layer2.w": {"layer1": np.ones(2), "layer2": {"b": np.ones(1), "w": np.array([None])}},
    "[1].lr": [1, {"lr": 2**70}],
    "[0]['not a name']": ({"not a name": np.ma.masked_array([1])},),
    "[3].left": {3: Pair(len, 1)},
    "deep[0]": Tagged(a=1, deep=[iter([])]),
}


@pytest.mark.parametrize("path", UNSTORABLE)
def test_what_can_not_be_stored_is_told_with_its_path(muster, path):
    with pytest.raises(Invalid) as error:
        muster.put(UNSTORABLE[path])
    assert error.value.message.startswith(f"at {path}: ")
    assert error.value.hint
    with pytest.raises(Invalid) as error:
        muster.put(np.array([None]))
    assert error.value.message == "arrays of dtype object can't be stored"
