"""Random programs from a seed. They make arrays and views, nest them, keep some in one of many ways, and return a tree.

A program knows what it returned and what it kept, and so which arrays have to be copied and which need not be.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import pathlib
import random
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import keeping
import muster
import numpy as np

# ---- what a tree is made of ----


@dataclasses.dataclass
class Pair:
    left: Any
    right: Any


@dataclasses.dataclass
class SlottedPair:
    __slots__ = ("left", "right")
    left: Any
    right: Any


class NamedPair(NamedTuple):
    left: Any
    right: Any


class Row(list):
    pass


class Point(tuple):
    __slots__ = ()


class Named(dict):
    pass


@dataclasses.dataclass
class Shown:
    """The value of its field is in a separate list."""

    value: Any


Shown.value = property(lambda self: self.box[0], lambda self, value: self.__dict__.update(box=[value]))


class Sideways(list):
    """A list that may show items that it does not have."""

    def __iter__(self) -> Any:
        return list.__iter__(self)


@dataclasses.dataclass
class Asking:
    """A class whose instances may show values that they do not have."""

    value: Any

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


REVIVED: list[Any] = []


class Reviving(list):
    def __del__(self) -> None:
        REVIVED.extend(list.__iter__(self))


@dataclasses.dataclass
class RevivingPair(Pair):
    def __del__(self) -> None:
        REVIVED.append(self.__dict__)


#: Who else has a hand in what these hold? They show what they like,
SHOWS = (Sideways, Asking)
#: or bring it back to life when they end.
REVIVES = (Reviving, RevivingPair)

CONTAINERS: list[Callable[[list[Any]], Any]] = [
    list,
    tuple,
    lambda items: {f"k{number}": item for number, item in enumerate(items)},
    lambda items: dict(enumerate(items)),
    lambda items: collections.OrderedDict((str(number), item) for number, item in enumerate(items)),
    lambda items: collections.defaultdict(list, {str(number): item for number, item in enumerate(items)}),
    lambda items: Named(enumerate(items)),
    Row,
    Point,
    lambda items: Pair(items[0], items[-1]),
    lambda items: SlottedPair(items[0], items[-1]),
    lambda items: NamedPair(items[0], items[-1]),
    lambda items: Shown(items[0]),
    Sideways,
    lambda items: Asking(items[-1]),
    Reviving,
    lambda items: RevivingPair(items[0], items[-1]),
]
RARE = 4  # the last of them are rare

# ---- arrays, and views of arrays ----

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "u1", "?", "c8", "c16"]
SHAPES = [(1,), (5,), (64,), (3, 4), (2, 3, 4), (), (16, 16), (1500,), (40000,)]

ARRAYS: list[Callable[[tuple[int, ...], str, int], np.ndarray]] = [
    lambda shape, dtype, value: np.full(shape, value, dtype),
    lambda shape, dtype, value: np.ones(shape, dtype),
    lambda shape, dtype, value: np.zeros(shape, dtype),
    lambda shape, dtype, value: np.full(shape, value).astype(dtype),
    lambda shape, dtype, value: np.full(shape, value, dtype).copy(),
    lambda shape, dtype, value: np.asfortranarray(np.full(shape, value, dtype)),
    lambda shape, dtype, value: np.concatenate([np.full(3, value, dtype), np.zeros(2, dtype)]),
    lambda shape, dtype, value: np.where(np.ones(shape, bool), np.full(shape, value, dtype), np.zeros(shape, dtype)),
    lambda shape, dtype, value: np.array(np.full(shape, value, dtype).tolist(), dtype),
]


def in_another_thread() -> np.ndarray:
    made: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: made.append(np.ones(3)))
    thread.start()
    thread.join()
    return made.pop()


VIEWS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda array: array[...],
    lambda array: array[: len(array) // 2 + 1] if array.ndim else array[...],
    lambda array: array[len(array) // 2 :] if array.ndim else array[...],
    lambda array: array.reshape(-1),
    lambda array: array.T,
    lambda array: array.ravel(),
    lambda array: array[np.newaxis],
    lambda array: array[::2] if array.ndim else array[...],
    lambda array: array.view("u1") if array.flags.c_contiguous and array.ndim else array[...],
    lambda array: array.real,
]

# ---- places ----


class Maps:
    """Finds where an address of this process is: (inode of the memfd, offset in it), or None outside the store."""

    def __init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        self.spans = []
        for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
            if "memfd:muster-client" not in line:
                continue
            span, _, offset, _, inode, *_ = line.split()
            low, high = (int(edge, 16) for edge in span.split("-"))
            self.spans.append((low, high, int(inode), int(offset, 16)))

    def place(self, array: np.ndarray) -> tuple[int, int] | None:
        address = array.__array_interface__["data"][0]
        for low, high, inode, offset in self.spans:
            if low <= address < high:
                return inode, offset + address - low
        return None


def items_of(value: Any) -> list[Any]:
    """Returns what a container shows, in the order in which the object stores it."""
    if isinstance(value, dict):
        return list(value.values())
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return list(value) if isinstance(value, (list, tuple)) else []


def leaves_of(value: Any) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    return [leaf for item in items_of(value) for leaf in leaves_of(item)]


def reach(value: Any, met: dict[int, Any]) -> None:
    """Adds everything that can be reached from the value."""
    if value is None or id(value) in met or isinstance(value, str):
        return
    met[id(value)] = value
    if isinstance(value, np.ndarray):
        reach(value.base, met)
    else:
        for held in keeping.held_by(value):
            reach(held, met)


def instances_in(value: Any, kinds: tuple[type, ...]) -> list[Any]:
    if isinstance(value, kinds):
        return [value]
    return [found for held in keeping.held_by(value) for found in instances_in(held, kinds)]


@dataclasses.dataclass
class Leaf:
    """What the program knew about an array when it returned it."""

    content: bytes
    place: tuple[int, int] | None
    copied: bool


class Program:
    """Call it once in a decorated function. Afterwards it knows what happened, and holds only what its ways keep."""

    def __init__(self, seed: int, maps: Maps, given: np.ndarray) -> None:
        self.seed = seed
        self.maps = maps
        self.given = given
        self.random = random.Random(seed)
        self.log: list[str] = []
        self.writers: list[keeping.Write] = []
        self.leaves: list[Leaf] = []
        self.is_async = self.random.random() < 0.2

    def run(self) -> muster.Ref:
        if not self.is_async:
            return muster.collective_input(self.call)()
        return keeping.LOOP.run_until_complete(muster.collective_input(self.call_async)())

    async def call_async(self) -> Any:
        if self.random.random() < 0.5:
            await asyncio.sleep(0)
        made = self.call()
        if self.random.random() < 0.2:
            await asyncio.sleep(0)
        return made

    def call(self) -> Any:
        """Makes everything in local variables, which end with the call."""
        pool = self.arrays()
        containers: list[Any] = []
        root = self.tree(pool, containers, 0)
        kept = self.keep(root, pool + containers)
        # An instance that revives its contents does so even if it is not part of the tree.
        self.note(root, [*kept, *instances_in(root, SHOWS), *instances_in(containers, REVIVES)])
        return root

    def arrays(self) -> list[np.ndarray]:
        pool: list[np.ndarray] = []
        for _ in range(self.random.randint(1, 4)):
            chance = self.random.random()
            if chance < 0.04:
                pool.append(self.given)
            elif chance < 0.06:
                pool.append(in_another_thread())
            else:
                make = self.random.choice(ARRAYS)
                weights = [8, 8, 8, 6, 4, 4, 3, 2, 1]
                shape = self.random.choices(SHAPES, weights)[0]
                pool.append(make(shape, self.random.choice(DTYPES), self.random.randint(1, 60)))
        for _ in range(self.random.choice([0, 0, 1, 2, 4])):
            pool.append(self.random.choice(VIEWS)(self.random.choice(pool)))
        return pool

    def tree(self, pool: list[np.ndarray], containers: list[Any], depth: int) -> Any:
        chance = self.random.random()
        if depth > 3 or chance < (0.15 if depth == 0 else 0.5):
            return self.random.choice(pool)
        if depth > 0 and chance < 0.55:
            return self.random.choice([None, "text"])
        if containers and chance < 0.65:
            return self.random.choice(containers)
        items = [self.tree(pool, containers, depth + 1) for _ in range(self.random.randint(1, 4))]
        rare = self.random.random() < 0.05
        made = self.random.choice(CONTAINERS[-RARE:] if rare else CONTAINERS[:-RARE])(items)
        containers.append(made)
        return made

    def keep(self, root: Any, values: list[Any]) -> list[Any]:
        """Keeps some of the values; returns those that somebody else can reach."""
        kept: list[Any] = []
        tree: dict[int, Any] = {}
        reach(root, tree)
        for _ in range(self.random.choice([0, 0, 1, 1, 1, 2, 3])):
            value = self.random.choice(values)
            way = self.random.choice(keeping.WAYS)
            writer = way(value)
            if writer is None:
                continue
            self.log.append(f"{type(value).__name__} kept {way.__name__}")
            self.writers.append(writer)
            if way in keeping.KEEPS_CALLERS:
                kept.extend(values)
            # A value that is only watched ends with the call, unless the tree holds it.
            elif way not in keeping.KEEPS_NOTHING or id(value) in tree:
                kept.append(value)
        return kept

    def note(self, root: Any, kept: list[Any]) -> None:
        shared: dict[int, Any] = {}
        for value in [self.given, *kept]:
            reach(value, shared)
        for leaf in leaves_of(root):
            place, array, copied = self.maps.place(leaf), leaf, not leaf.flags.c_contiguous
            if place is None:
                self.maps.refresh()
                place = self.maps.place(leaf)
            while isinstance(array, np.ndarray):
                copied = copied or id(array) in shared
                array = array.base
            self.leaves.append(Leaf(leaf.tobytes(), place, copied or place is None))
        self.log.append(f"returned {describe(root)}")

    def check_copies(self, ref: muster.Ref) -> list[str]:
        """Compares what counts as copied with addresses; returns the faults."""
        found = leaves_of(ref.get())
        faults = []
        if len(found) != len(self.leaves):
            return [f"{len(self.leaves)} leaves became {len(found)}"]
        copies = 0
        for number, (leaf, known) in enumerate(zip(found, self.leaves)):
            place = self.maps.place(leaf)
            if place is None or (place != known.place and not known.copied):
                self.maps.refresh()
                place = self.maps.place(leaf)
            copied = place != known.place
            copies += copied
            if copied != known.copied:
                faults.append(f"leaf {number} was {'copied' if copied else 'taken over'}: {known.place} to {place}")
        if copies != ref.copies:
            faults.append(f"copies={ref.copies}, by addresses {copies}")
        return faults

    def write(self) -> None:
        for writer in self.writers:
            writer()
        for value in REVIVED:
            keeping.scribble(value)
        REVIVED.clear()

    def __str__(self) -> str:
        return f"program {self.seed}{' (async)' if self.is_async else ''}: {'; '.join(self.log)}"


def describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}" + ("" if value.base is None else " view")
    if value is None or isinstance(value, str):
        return repr(value)
    return f"{type(value).__name__}({', '.join(map(describe, items_of(value)))})"
