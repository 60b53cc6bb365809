"""Ray Train: the workers of a trainer use the backend "muster"."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ray.train
from muster.ray.train import TorchConfig
from ray.train.torch import TorchTrainer

RANKS, STEPS = 2, 4
#: Ray warns of what it does itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def train(settings):
    import torch.distributed as dist

    every = [None] * dist.get_world_size()
    dist.all_gather_object(every, losses_over(None))
    told = {"backend": dist.get_backend(), "losses": every[0], "every": every}
    told["of gloo"] = losses_over(dist.new_group(backend="gloo"))
    if dist.get_rank() == 0:
        Path(settings["file"]).write_text(json.dumps(told))


def losses_over(group):
    import torch

    torch.manual_seed(1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1), process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(torch.distributed.get_rank())
    losses = []
    for _ in range(STEPS):
        loss = model(torch.randn(4, 8, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_trainer_has_the_losses_of_gloo(cluster, tmp_path):
    TorchTrainer(
        train,
        train_loop_config={"file": str(tmp_path / "told")},
        torch_config=TorchConfig(),
        scaling_config=ray.train.ScalingConfig(num_workers=RANKS),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path)),
    ).fit()
    told = json.loads((tmp_path / "told").read_text())
    assert told["backend"] == "muster"
    assert len(told["every"]) == RANKS
    assert told["losses"] == pytest.approx(told["of gloo"], abs=1e-6)
