"""Shares of the memory that Ray has reserved for Muster's daemons."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from muster import _muster
from muster._checks import size
from muster.errors import Invalid
from muster.ray import _cluster, _hooks, _keepers, _reservation


def share(memory: str | int) -> dict[str, Any]:
    """Returns options for an actor that is to have a share of a node's store: it runs where so much is not shared yet.

    Ray then starts no more actors with shares than the store has room for; one that has to wait for room is pending::

        sampler = Sampler.options(**muster.ray.share("1GiB")).remote()

    A share is a promise among actors: the store does not refuse an actor that uses more. It has no CPUs, as Ray's
    actors have none by default. When the node's daemon is ended, the actors that have shares of it are, too.

    Args:
        memory: how much of the store, for instance ``"1GiB"``.

    Raises:
        Invalid: no node's daemon has so much memory, or Ray does not run here.
    """
    if not ray.is_initialized():
        raise Invalid("Ray does not run here", "call muster.ray.init() first")
    wanted = _muster.parse_bytes(size("memory", memory))
    _cluster.ready()
    found = [known for known in map(_reserved, _keepers.alive_nodes()) if known is not None]
    fitting = [known for known in found if known["memory"] >= wanted]
    if not fitting:
        largest = max((known["memory"] for known in found), default=0)
        raise Invalid(
            f"no node's store has {_muster.bytes_text(wanted)}; the largest has {_muster.bytes_text(largest)}",
            "ask for less, or give muster.ray.init() more memory=",
        )
    group = max(fitting, key=lambda known: known["left"])["group"]
    strategy = PlacementGroupSchedulingStrategy(_hooks.placement_group_of(group), placement_group_bundle_index=0)
    return {"num_cpus": 0, "memory": wanted, "scheduling_strategy": strategy}


def _reserved(node: str) -> dict[str, Any] | None:
    known = _reservation.reservation_on(node)
    if known is None:
        return None
    return {**known, "left": _hooks.left_on(node).get(_hooks.memory_of(known["group"]), 0)}
