"""Ranks in processes of their own, with a process group of Muster or another backend, for the tests of this folder."""

from __future__ import annotations

import datetime
import multiprocessing
import tempfile
import time
from pathlib import Path

import muster
import pytest
import torch
import torch.distributed as dist

from daemon import ranks

#: torch calls a backend of the process group, which is its own. With 2.13 the process group is Muster's.
GROUP_IS_TORCHS = torch.__version__ >= (2, 14)

#: Ranks are forked from a process that has imported torch and has no threads.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "muster.torch",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.distributed.optim",
        "torch.distributed.tensor",
        "worlds",
    ]
)
PATIENCE_S = 120


def run(daemon, function, world_size, *arguments, backend="muster"):
    """Returns what ``function(rank, world_size, *arguments)`` returns on each rank, within a process group."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ranks(
            daemon,
            _in_group,
            world_size,
            function,
            world_size,
            f"file://{Path(folder, 'store')}",
            backend,
            arguments,
            context=FORKSERVER,
        ) as (_, results),
    ):
        values = told_by(results, world_size)
    return [values[rank] for rank in range(world_size)]


def told_by(results, count):
    """Returns what so many ranks return, by rank."""
    values = {}
    for _ in range(count):
        rank, is_good, value = results.get(timeout=PATIENCE_S)
        assert is_good, f"rank {rank}: {value}"
        values[rank] = value
    return values


def _in_group(rank, function, world_size, store, backend, arguments):
    import muster.torch  # makes the backend known

    assert muster.torch.NAME == "muster"
    join(rank, world_size, store, backend)
    try:
        value = function(rank, world_size, *arguments)
        # Nobody leaves while others still work: that would be a loss.
        dist.barrier()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return value


def recv_from_any(tensor, tag=0):
    """Returns the source. torch's own ``recv`` can't tell it from what a backend of Python has received."""
    import muster.torch

    if not GROUP_IS_TORCHS:
        return dist.recv(tensor, tag=tag)
    work = muster.torch.seat().recv_anysource([tensor], tag)
    work.wait()
    return work.source_rank()


def join(rank, world_size, store, backend="muster"):
    dist.init_process_group(
        backend,
        init_method=store,
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=30),
    )


def caught(call, *arguments, **options):
    """Returns the error of a call: the names of its classes in torch and in Muster, its ranks and its message."""
    with pytest.raises(dist.DistBackendError) as found:
        call(*arguments, **options)
    assert isinstance(found.value, muster.Error)
    return found.value.code, found.value.ranks, str(found.value)


def outlive_the_daemon():
    """Works until the daemon has ended, and returns the code of that error. The group is another then, of Gloo."""

    def work_until_it_has_ended():
        while True:
            dist.all_reduce(torch.ones(1))

    code, _, _ = caught(work_until_it_has_ended)
    dist.destroy_process_group()
    # What follows in run() needs a group that works.
    with tempfile.TemporaryDirectory() as folder:
        join(0, 1, f"file://{folder}/store", "gloo")
    return code


def wait_until(holds):
    """For what nothing tells of."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)
