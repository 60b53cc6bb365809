"""What torch 2.14 and newer have beside what 2.13 has: the process group is torch's own, and Muster a backend of it."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
from pathlib import Path

import muster.torch
import pytest
import torch
import torch.distributed as dist
import worlds
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from daemon import Daemon, ranks

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
UNCHANGED = """
import torch
import torch.distributed as dist

dist.init_process_group("muster", store=dist.HashStore(), rank=0, world_size=1)
tensor = torch.ones(2)
dist.all_reduce(tensor)
print(tensor.tolist(), dist.get_backend())
dist.destroy_process_group()
"""


def test_a_script_need_not_import_it(shared_daemon, tmp_path):
    metadata = tmp_path / "muster-0.dist-info"
    metadata.mkdir()
    section = '[project.entry-points."torch.distributed.backends"]\n'
    entry = PYPROJECT.read_text().partition(section)[2].partition("\n\n")[0].replace('"', "")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: muster\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(f"[torch.distributed.backends]\n{entry}\n")
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    run = subprocess.run(
        [sys.executable, "-c", UNCHANGED],
        env={**os.environ, "PYTHONPATH": path, "MUSTER_SOCKET": shared_daemon.socket},
        capture_output=True,
        text=True,
        check=False,
        timeout=worlds.PATIENCE_S,
    )
    assert run.stdout.strip() == "[1.0, 1.0] muster", run.stderr


def look_at_groups(rank, count):
    world = dist.group.WORLD
    assert type(world) is dist.ProcessGroup
    assert isinstance(world._get_backend(torch.device("cpu")), muster.torch.Seat)
    assert muster.torch.seat().muster_group.world_size == count
    seen = []
    world.register_pre_hook(1, lambda call: seen.append(call))
    tensor = torch.full((3,), float(rank))
    dist.all_reduce(tensor)
    world.unregister_pre_hook(1)
    dist.all_reduce(torch.ones(1))
    return tensor.tolist(), len(seen), world.group_name


def test_the_process_group_is_torchs_own_and_calls_its_hooks(shared_daemon):
    for tensor, seen, name in worlds.run(shared_daemon, look_at_groups, 3):
        assert tensor == [3.0] * 3
        assert seen == 1
        assert name


def reduce_on_named_device(rank, count):
    tensor = torch.full((2,), float(rank + 1))
    dist.all_reduce(tensor)
    return tensor.tolist(), dist.get_backend_config()


def test_a_backend_for_one_device(shared_daemon):
    for tensor, config in worlds.run(shared_daemon, reduce_on_named_device, 2, backend="cpu:muster"):
        assert tensor == [3.0] * 2
        assert config == "cpu:muster"


def reduce_beside_another_backend(rank, count):
    tensor = torch.full((2,), float(rank + 1))
    dist.all_reduce(tensor)
    group = dist.group.WORLD
    names = [group._get_backend(torch.device(name)).name() for name in ("cpu", "cuda")]
    return tensor.tolist(), names, muster.torch.seat().muster_group.world_size


@pytest.mark.parametrize("names", [("muster", "gloo"), ("gloo", "muster")])
def test_two_backends_in_one_group(shared_daemon, names):
    backend = "cpu:{},cuda:{}".format(*names)
    for told in worlds.run(shared_daemon, reduce_beside_another_backend, 2, backend=backend):
        assert told == ([3.0] * 2, list(names), 2)


def split(rank, count):
    group = dist.group.WORLD.split_group([0, 2] if rank in (0, 2) else [1, 3])
    tensor = torch.full((1,), float(rank))
    group.allreduce([tensor]).wait()
    return tensor.item(), group.rank(), muster.torch.seat(group).muster_group.world_size


def test_a_group_can_be_split(shared_daemon):
    assert worlds.run(shared_daemon, split, 4) == [(2.0, 0, 2), (4.0, 0, 2), (2.0, 1, 2), (4.0, 1, 2)]


def go_on_without_the_lost(rank, count, store):
    """Ranks 1 and 3 die, one after the other. The others go on twice, as ever smaller groups of all ranks."""
    import muster.torch

    worlds.join(rank, count, store)
    told = []
    for dies in (3, 1):
        dist.barrier()
        if rank == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(muster.PeerLost) as lost:
            dist.all_reduce(torch.ones(1))
        dist.shrink_group(lost.value.ranks)
        tensor = torch.full((1,), float(rank))
        dist.all_reduce(tensor)
        told.append((lost.value.ranks, dist.get_rank(), dist.get_world_size(), tensor.item()))
        model = DistributedDataParallel(torch.nn.Linear(1, 1))
        model(torch.full((1, 1), float(rank))).sum().backward()
        assert model.module.weight.grad.item() == tensor.item() / dist.get_world_size()
    assert muster.torch.seat().muster_group.world_size == 2
    dist.barrier()
    dist.destroy_process_group()
    return told


def test_ranks_go_on_without_those_that_are_lost(shared_daemon, tmp_path):
    store = f"file://{tmp_path}/store"
    with ranks(shared_daemon, go_on_without_the_lost, 4, 4, store, context=worlds.FORKSERVER) as (_, results):
        told = worlds.told_by(results, 2)
    assert told == {
        0: [([3], 0, 3, 3.0), ([1], 0, 2, 2.0)],
        2: [([3], 2, 3, 3.0), ([1], 1, 2, 2.0)],
    }


def leave_out_one_that_lives(rank, count):
    """Rank 1 is late for ever, and the others leave it out. They do not wait for their op that waits for it."""
    group = dist.new_group()
    if rank == 1:
        dist.barrier()
        return None
    pending = dist.all_reduce(torch.ones(1), group=group, async_op=True)
    smaller = dist.shrink_group([1], group, dist.distributed_c10d.SHRINK_ABORT)
    tensor = torch.ones(1)
    dist.all_reduce(tensor, group=smaller)
    dist.destroy_process_group(smaller)
    dist.barrier()
    del pending
    return tensor.item(), smaller.size()


def test_a_rank_that_lives_can_be_left_out(shared_daemon):
    told = worlds.run(shared_daemon, leave_out_one_that_lives, 3)
    assert told == [(2.0, 2), None, (2.0, 2)]


def disagree_about_who_is_left_out(rank, count, flags):
    seat = muster.torch.seat(dist.new_group())
    found = []
    if rank < 2:
        seat.set_timeout(datetime.timedelta(seconds=0.5))
        found += [worlds.caught(seat.shrink, [2] if rank == 0 else [0])[:2]]
        if rank == 0:  # it comes once more than the other one
            found += [worlds.caught(seat.shrink, [2], flags)[:2]]
    dist.barrier()
    if rank < 2:
        seat.set_timeout(datetime.timedelta(seconds=30))
        smaller = seat.shrink([2], flags)
        tensor = torch.full((1,), float(rank + 1))
        smaller.allreduce([tensor]).wait()
        found.append(tensor.item())
        smaller.shutdown()
    return found


@pytest.mark.parametrize("flags", [dist.distributed_c10d.SHRINK_DEFAULT, dist.distributed_c10d.SHRINK_ABORT])
def test_ranks_that_did_not_agree_may_try_again(shared_daemon, flags):
    first, second, _ = worlds.run(shared_daemon, disagree_about_who_is_left_out, 3, flags)
    assert first == [("Timeout", [1]), ("Timeout", [1]), 3.0]
    assert second == [("Timeout", [2]), 3.0]


def wait_for_one_that_aborts(rank, count):
    seat = muster.torch.seat(dist.new_group())
    for first in range(2):
        if rank == first:
            seat.set_timeout(datetime.timedelta(seconds=0.2))
            assert worlds.caught(seat.shrink, [2])[0] == "Timeout"
        dist.barrier()
    if rank == 0:
        seat.set_timeout(datetime.timedelta(seconds=30))
        return worlds.caught(seat.shrink, [2])
    return seat.abort()


def test_a_rank_that_aborts_is_missed_by_the_smaller_group(shared_daemon):
    (code, missing, told), _, _ = worlds.run(shared_daemon, wait_for_one_that_aborts, 3)
    assert (code, missing) == ("PeerLost", [1])
    assert "call it again on all of these" in told


def outlive_the_daemon_in_between(rank, count, daemon_pid):
    if rank == 0:
        seat = muster.torch.seat()
        seat.set_timeout(datetime.timedelta(seconds=0.2))
        assert worlds.caught(seat.shrink, [2])[0] == "Timeout"
        seat.set_timeout(datetime.timedelta(seconds=30))
    dist.barrier()
    if rank == 0:
        os.kill(daemon_pid, signal.SIGKILL)
    return worlds.outlive_the_daemon()


def test_a_group_with_an_incomplete_smaller_one_ends_when_its_daemon_has_died():
    daemon = Daemon("--memory", "256MiB")
    try:
        assert worlds.run(daemon, outlive_the_daemon_in_between, 3, daemon.pid) == ["DaemonUnavailable"] * 3
    finally:
        daemon.kill()


def reduce_along_a_mesh(rank, count):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    found = []
    for name in ("rows", "columns"):
        tensor = torch.full((1,), float(rank))
        dist.all_reduce(tensor, group=mesh.get_group(name))
        found.append(tensor.item())
    return found


def test_a_mesh_of_devices(shared_daemon):
    assert worlds.run(shared_daemon, reduce_along_a_mesh, 4) == [[2, 1], [4, 1], [2, 5], [4, 5]]


def use_works_that_torch_returns(rank, count):
    tensor = torch.ones(2)
    future = dist.all_reduce(tensor, async_op=True).get_future()
    future.wait()
    assert future.done()
    got = torch.zeros(1)
    if rank == 0:
        dist.irecv(got).wait()
    else:
        dist.send(torch.full((1,), 7.0), 0)
    return tensor.tolist(), got.item()


def test_works_that_torch_returns_can_be_waited_for(shared_daemon):
    assert worlds.run(shared_daemon, use_works_that_torch_returns, 2) == [([2.0, 2.0], 7.0), ([2.0, 2.0], 0.0)]
