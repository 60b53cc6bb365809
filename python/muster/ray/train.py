"""Ray Train over Muster: the workers of a ``TorchTrainer`` share a process group of the backend ``"muster"``. ::

    import muster.ray
    from muster.ray.train import TorchConfig
    from ray.train.torch import TorchTrainer

    muster.ray.init()
    TorchTrainer(train, torch_config=TorchConfig(), scaling_config=ScalingConfig(num_workers=4)).fit()

The workers have to be on one machine. Nothing else of a script changes. Needs ``pip install "ray[train]" torch``.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from ray.train.torch import config as _of_ray

__all__ = ["TorchConfig"]


@dataclasses.dataclass
class TorchConfig(_of_ray.TorchConfig):  # type: ignore[misc]
    """As ``ray.train.torch.TorchConfig``, with another default. It makes the backend known to the workers."""

    backend: str | None = "muster"

    @property
    def backend_cls(self) -> type:
        return _Backend


class _Backend(_of_ray.TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(importlib.import_module, "muster.torch")
        super().on_start(worker_group, backend_config)
