"""A node's reservation: the memory, and perhaps the CPUs, that Ray counts as taken for the node's daemon.

It is a placement group of one bundle. It ends with the keeper that made it, so what Ray believes is reserved never
outlives who uses it; a keeper that is restarted finds it again.
"""

from __future__ import annotations

import json
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from muster import _muster
from muster.errors import OutOfMemory
from muster.ray import _hooks
from muster.ray._sweep import RESERVATIONS

_RESERVE_S = 20
_SHARE_OF_MEMORY = 0.3
#: Of a cluster that ``muster.ray.init`` starts, one CPU in so many is for the daemon's lanes.
_CPUS_PER_LANE = 8


def reservation_on(node: str) -> dict[str, Any] | None:
    """What is reserved on a node: ``group``, the id of a placement group, and ``memory`` in bytes."""
    found = _hooks.kv_get(_key(node))
    return None if found is None else dict(json.loads(found))


class Reservation:
    """Of one keeper, on its node.

    Attributes:
        memory: bytes; 0 if nothing is reserved.
    """

    def __init__(self, node: str, keeper: str) -> None:
        self.memory = 0
        self._node = node
        self._keeper = keeper
        self._group: Any = None

    def find(self) -> bool:
        """After a restart of the keeper, which does not end its reservation. Returns whether there is one."""
        known = reservation_on(self._node)
        if known is None or known["keeper"] != self._keeper:
            return False
        self._group, self.memory = _hooks.placement_group_of(known["group"]), known["memory"]
        return True

    def default(self) -> int:
        """The budget if none is given: a share of the memory that Ray has on this node, or all that it has left."""
        total = row_of(self._node)["Resources"].get("memory", 0)
        left = _hooks.left_on(self._node).get("memory", 0) + self.memory
        return int(min(_SHARE_OF_MEMORY * total, left)) >> 20 << 20 or 1 << 20

    def take(self, memory: int, lanes: int) -> None:
        """Lets Ray know that so much memory of the node is taken, and one CPU in eight, for at most so many lanes.

        Raises:
            OutOfMemory: Ray has not so much left.
        """
        if self.memory == memory:
            return
        self.give_back()
        resources = row_of(self._node)["Resources"]
        cpus = min(int(resources.get("CPU", 0)) // _CPUS_PER_LANE, lanes)
        bundle: dict[str, float] = {"memory": memory, **({"CPU": cpus} if cpus else {})}
        name = f"muster on {self._node}"
        group = placement_group([bundle], name=name, bundle_label_selector=[_hooks.only_on(self._node)])
        total = int(resources.get("memory", 0))
        if memory > total or not group.wait(_RESERVE_S):
            remove_placement_group(group)
            left = int(_hooks.left_on(self._node).get("memory", 0))
            raise OutOfMemory(
                f"Ray has {_muster.bytes_text(left)} of {_muster.bytes_text(total)} of memory left on node"
                f" {self._node[:16]}, and Muster's daemon is to have {_muster.bytes_text(memory)}",
                "give muster.ray.init() less memory=, or end what has it: ray status",
            )
        self._group, self.memory = group, memory
        made = {"group": group.id.hex(), "memory": memory, "keeper": self._keeper}
        _hooks.kv_put(_key(self._node), json.dumps(made).encode())

    def give_back(self) -> None:
        if self._group is not None:
            _hooks.kv_delete(_key(self._node))
            remove_placement_group(self._group)
            self._group, self.memory = None, 0

    def is_shared(self) -> bool:
        """Whether an actor has a share of it. Asks the head of the cluster."""
        if self._group is None:
            return False
        left = _hooks.left_on(self._node).get(_hooks.memory_of(self._group.id.hex()), 0)
        return bool(left < self.memory)


def row_of(node: str) -> dict[str, Any]:
    """What Ray says of a node."""
    return next(row for row in ray.nodes() if row["NodeID"] == node)


def _key(node: str) -> bytes:
    return RESERVATIONS + node.encode()
