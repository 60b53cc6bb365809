"""On which node a task should run: where most bytes of its arguments are."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from muster._ref import Ref
from muster.errors import Error
from muster.ray import _keepers, _owned
from muster.ray._refs import Place, place_of

_NODES_KNOWN_S = 5.0
_nodes: tuple[float, int] = (float("-inf"), 0)


def near(*values: Any) -> Any:
    """Returns a ``scheduling_strategy`` for a task that reads these values: the node where most of their bytes are.

    Tasks of marked functions go there by themselves, unless they are given a strategy. For other tasks and for actors::

        norm.options(scheduling_strategy=muster.ray.near(ref)).remote(ref)

    Only results that are there already count; nothing is waited for. If the node is lost, Ray takes another one.

    Args:
        values: ``muster.Ref``, ObjectRefs of marked tasks that this process submitted, or lists, tuples and dicts of
            them.

    Returns:
        What Ray takes as ``scheduling_strategy``; its default where nothing is known.
    """
    node = node_of(values)
    return "DEFAULT" if node is None else NodeAffinitySchedulingStrategy(node, soft=True)


def node_of(values: Any) -> str | None:
    """The node that has most bytes of these values; None if that is not known, or there is only one node."""
    return _most(map(_place_of, _refs_in(values))) if _has_many_nodes() else None


def _most(places: Iterator[Place | None]) -> str | None:
    """The node with most bytes; of several, the first in the order of ids, so that equal calls go to one place."""
    bytes_on: Counter[str] = Counter()
    for place in places:
        if place is not None:
            bytes_on[place[0]] += place[1]
    return min(bytes_on, key=lambda node: (-bytes_on[node], node), default=None)


def _has_many_nodes() -> bool:
    global _nodes
    if time.monotonic() - _nodes[0] > _NODES_KNOWN_S:
        _nodes = time.monotonic(), len(_keepers.alive_nodes())
    return _nodes[1] > 1


def _refs_in(x: Any) -> Iterator[Any]:
    if isinstance(x, (ray.ObjectRef, Ref)):
        yield x
    elif type(x) is dict:
        yield from _refs_in(list(x.values()))
    elif type(x) in (list, tuple):
        for item in x:
            yield from _refs_in(item)


def _place_of(ref: Any) -> Place | None:
    """On which node the bytes of a ref are, and how many; None if they are not there yet, or that is not known."""
    if isinstance(ref, Ref):
        return _place_of_stored(ref)
    found = _owned.call_of(ref)
    if found is None:
        return None  # another process's, or of a task without the mark: its value may be large
    owned, number = found
    if number not in owned.places and ray.wait([ref], timeout=0, fetch_local=False)[0]:
        with contextlib.suppress(ray.exceptions.RayError):
            value = ray.get(ref, timeout=0)
            if isinstance(value, Ref):
                owned.places[number] = place_of(value)
    return owned.places.get(number)


def _place_of_stored(ref: Ref) -> Place | None:
    try:
        return place_of(ref)
    except Error:
        return None  # freed
