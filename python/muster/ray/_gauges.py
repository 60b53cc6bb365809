"""What a store says, as metrics of Ray."""

from __future__ import annotations

from typing import Any, ClassVar

from ray.util.metrics import Gauge


class Gauges:
    """What a daemon says, as metrics of Ray. Each has the tag ``node``."""

    _TOLD: ClassVar = {
        "muster_memory_used_bytes": ("memory_used_bytes", "Memory of Muster's store that is in use on this node."),
        "muster_memory_budget_bytes": ("memory_bytes", "Memory that Muster's store may use on this node."),
        "muster_objects": ("objects", "Objects in Muster's store on this node."),
        "muster_ops_done": ("ops_done", "Collectives that Muster's daemon on this node has done since it started."),
        "muster_ops_failed": ("ops_failed", "Collectives that failed on this node since its daemon started."),
    }

    def __init__(self, node: str) -> None:
        self._gauges = {
            field: Gauge(name, description=description, tag_keys=("node",))
            for name, (field, description) in self._TOLD.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"node": node})

    def tell(self, told: dict[str, Any]) -> None:
        for field, gauge in self._gauges.items():
            gauge.set(told.get(field, 0))
