"""Training with DistributedDataParallel: the losses are those of Gloo, and the same bits each time."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import worlds
from torch.nn.parallel import DistributedDataParallel

RANKS, STEPS = 4, 6


def model():
    torch.manual_seed(1)
    layers = [torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 4)]
    return torch.nn.Sequential(*layers)


def transformer():
    torch.manual_seed(1)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0)
    return torch.nn.Sequential(layer, torch.nn.Linear(16, 4))


MODELS = [model, transformer]


def train(rank, ranks, make=model, dtype=torch.float32, **options):
    """Returns the losses, and the trained parameters as bytes. Buckets are small, so there are several."""
    wrapped = DistributedDataParallel(make().to(dtype), bucket_cap_mb=0.002, **options)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)
    losses = []
    for _ in range(STEPS):
        inputs = torch.randn(8, 16, generator=generator).to(dtype)
        loss = wrapped(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [parameter.detach().view(-1).view(torch.uint8).tolist() for parameter in wrapped.parameters()]


@pytest.mark.parametrize("make", MODELS)
def test_losses_are_those_of_gloo(shared_daemon, make):
    ours = worlds.run(shared_daemon, train, RANKS, make)
    theirs = worlds.run(shared_daemon, train, RANKS, make, backend="gloo")
    for (losses, _), (wanted, _) in zip(ours, theirs):
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(wanted))


@pytest.mark.parametrize("make", MODELS)
def test_training_twice_gives_the_same_bits_on_each_rank(shared_daemon, make):
    first, second = (worlds.run(shared_daemon, train, RANKS, make) for _ in range(2))
    assert first == second
    assert all(parameters == first[0][1] for _, parameters in first)


def train_in_bfloat16(rank, ranks):
    return train(rank, ranks, model, torch.bfloat16, gradient_as_bucket_view=True)


def test_training_in_bfloat16(shared_daemon):
    trained = worlds.run(shared_daemon, train_in_bfloat16, 2)
    assert trained[0][1] == trained[1][1]


def train_with_hook(rank, ranks):
    """A hook of DDP's that asks for the future of an allreduce, and goes on with it."""

    def halves(state, bucket):
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        return work.get_future().then(lambda done: done.value()[0] / ranks)

    wrapped = DistributedDataParallel(model())
    wrapped.register_comm_hook(None, halves)
    wrapped(torch.full((2, 16), float(rank))).sum().backward()
    return [parameter.grad.tolist() for parameter in wrapped.parameters()]


def test_a_hook_of_ddp(shared_daemon):
    first, second = worlds.run(shared_daemon, train_with_hook, 2)
    assert first == second


def train_with_a_hook_of_torch_s(rank, ranks, hook):
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    torch.manual_seed(1)
    wrapped = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)))
    if hook == "powerSGD":  # its callbacks wait for the futures of other ops
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        wrapped.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    else:
        wrapped.register_comm_hook(None, default_hooks.fp16_compress_hook)
    for step in range(4):
        wrapped(torch.full((4, 64), rank + step + 1.0)).sum().backward()
    return [parameter.grad.tolist() for parameter in wrapped.parameters()]


@pytest.mark.parametrize("hook", ["powerSGD", "fp16"])
def test_the_hooks_that_torch_has_for_ddp(shared_daemon, hook):
    first, second = worlds.run(shared_daemon, train_with_a_hook_of_torch_s, 2, hook)
    assert first == second


def losses_of(sharded, rank):
    optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)
    losses = []
    for _ in range(STEPS):
        loss = sharded(torch.randn(8, 16, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_with_the_first_fsdp(rank, ranks):
    from torch.distributed.fsdp import FullyShardedDataParallel

    sharded = FullyShardedDataParallel(model(), device_id=torch.device("cpu"))
    return losses_of(sharded, rank)


def test_fsdp1_has_the_losses_of_gloo(shared_daemon):
    ours = worlds.run(shared_daemon, train_with_the_first_fsdp, 2)
    theirs = worlds.run(shared_daemon, train_with_the_first_fsdp, 2, backend="gloo")
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs))


def save_in_the_background(rank, ranks, folder):
    from torch.distributed import checkpoint

    checkpoint.async_save({"weights": torch.arange(4.0)}, checkpoint_id=folder).result(worlds.PATIENCE_S)
    loaded = {"weights": torch.zeros(4)}
    checkpoint.load(loaded, checkpoint_id=folder)
    return loaded["weights"].tolist()


def test_checkpoints_in_the_background(shared_daemon, tmp_path):
    assert worlds.run(shared_daemon, save_in_the_background, 2, str(tmp_path / "saved")) == [[0, 1, 2, 3]] * 2


def train_with_fsdp(rank, ranks):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (ranks,))
    sharded = model()
    fully_shard(sharded[0], mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    return losses_of(sharded, rank), [parameter.full_tensor().tolist() for parameter in sharded.parameters()]


def test_fsdp2_has_the_losses_of_gloo(shared_daemon):
    ours = worlds.run(shared_daemon, train_with_fsdp, 2)
    theirs = worlds.run(shared_daemon, train_with_fsdp, 2, backend="gloo")
    for (losses, _), (wanted, _) in zip(ours, theirs):
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(wanted))
    assert ours[0][1] == ours[1][1]


def shard_optimizer(rank, ranks):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    wrapped = DistributedDataParallel(model())
    optimizer = ZeroRedundancyOptimizer(wrapped.parameters(), torch.optim.Adam, lr=0.01)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(STEPS):
        optimizer.zero_grad()
        wrapped(torch.randn(8, 16, generator=generator)).square().mean().backward()
        optimizer.step()
    return [parameter.tolist() for parameter in wrapped.parameters()]


def test_zero_redundancy_optimizer(shared_daemon):
    first, second = worlds.run(shared_daemon, shard_optimizer, 2)
    assert first == second


def use_dtensor(rank, ranks):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    whole = torch.arange(64.0).view(8, 8)
    sharded = distribute_tensor(whole, mesh, [Shard(0), Shard(1)])
    turned = sharded.redistribute(mesh, [Shard(1), Shard(0)])
    return (turned @ turned).redistribute(mesh, [Replicate(), Replicate()]).to_local().tolist()


def test_dtensor_on_a_mesh_of_two_axes(shared_daemon):
    whole = torch.arange(64.0).view(8, 8)
    for found in worlds.run(shared_daemon, use_dtensor, 4):
        assert found == (whole @ whole).tolist()
