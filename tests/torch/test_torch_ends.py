"""The ends of groups and of daemons, and what there is to use then."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import signal
import subprocess
import sys
import time

import muster
import pytest
import torch
import torch.distributed as dist
import worlds

from daemon import Daemon, ranks

LINUX = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def ask_for_seats(rank, count):
    group = dist.new_group([0])
    if rank == 0:
        return isinstance(muster.torch.seat(group), muster.torch.Seat)
    with pytest.raises(muster.Invalid, match="is no group of the backend 'muster'"):
        muster.torch.seat(group)
    return True


def test_a_group_without_this_rank_has_no_seat(shared_daemon):
    assert worlds.run(shared_daemon, ask_for_seats, 2) == [True, True]


def ask_for_a_seat_in_debug_mode(rank, count):
    dist.set_debug_level(dist.DebugLevel.DETAIL)
    try:
        group = dist.new_group()
        tensor = torch.ones(1)
        dist.all_reduce(tensor, group=group)
        return tensor.item(), isinstance(muster.torch.seat(group), muster.torch.Seat)
    finally:
        dist.set_debug_level(dist.DebugLevel.OFF)


def test_a_group_in_debug_mode_has_a_seat(shared_daemon):
    assert worlds.run(shared_daemon, ask_for_a_seat_in_debug_mode, 2) == [(2.0, True)] * 2


def use_groups_that_are_over(rank, count, store):
    with pytest.raises(ValueError, match="twice"):
        worlds.join(rank, count, store)
    group = dist.group.WORLD
    dist.barrier()
    dist.destroy_process_group()
    found = worlds.caught(group.allreduce, torch.ones(1))
    with pytest.raises(ValueError, match="has not been initialized"):
        dist.all_reduce(torch.ones(1))
    group.abort()
    worlds.join(rank, count, store)
    return found


def test_calls_after_the_end_and_two_default_groups(shared_daemon, tmp_path):
    for found in worlds.run(shared_daemon, use_groups_that_are_over, 2, f"file://{tmp_path}/again"):
        assert found[0] == "GroupClosed"


def end_with_ops_on_their_way(rank, count, store):
    from muster.torch import _seat_base

    _seat_base._WAIT_AT_THE_END_S = worlds.PATIENCE_S  # the other rank may begin late
    sums = []
    for run in range(10):
        tensor = torch.ones(1 << 20)
        work = dist.all_reduce(tensor, async_op=True)
        dist.destroy_process_group()
        assert work.wait()
        sums.append(tensor.unique().tolist())
        worlds.join(rank, count, f"{store}{run}")
    return sums


def test_the_end_lets_ops_on_their_way_end(shared_daemon, tmp_path):
    for sums in worlds.run(shared_daemon, end_with_ops_on_their_way, 2, f"file://{tmp_path}/again"):
        assert sums == [[2]] * 10


def pass_on_and_end(rank, ranks, store):
    """Each stage of a pipeline ends when it has passed its batches on."""
    import muster.torch

    worlds.join(rank, ranks, store)
    dist.barrier()
    batch = torch.zeros(1)
    for _ in range(4):
        if rank > 0:
            dist.recv(batch, rank - 1)
        batch += 1
        if rank < ranks - 1:
            dist.send(batch, rank + 1)
    if rank > 0:  # the first stage has ended before the others go on
        worlds.wait_until(lambda: 0 not in muster.torch.seat().muster_group.live)
        got = torch.zeros(1)
        if rank == 1:
            dist.send(torch.full((1,), 7.0), 2)
        else:
            dist.recv(got, 1)
            batch = got
    dist.destroy_process_group()
    return batch.item()


def test_stages_of_a_pipeline_may_end_one_after_the_other(shared_daemon, tmp_path):
    with ranks(shared_daemon, pass_on_and_end, 3, 3, f"file://{tmp_path}/store", context=worlds.FORKSERVER) as (
        _,
        results,
    ):
        told = worlds.told_by(results, 3)
    assert told[2] == 7.0


def end_with_an_op_that_nobody_answers(rank, count, store):
    from muster.torch import _seat_base

    _seat_base._WAIT_AT_THE_END_S = 3600.0
    work = dist.all_reduce(torch.ones(1), async_op=True) if rank == 0 else None
    dist.group.WORLD.abort()
    dist.destroy_process_group()
    worlds.join(rank, count, store)
    return None if work is None else worlds.caught(work.wait)[0]


def test_abort_waits_for_nobody(shared_daemon, tmp_path):
    code, _ = worlds.run(shared_daemon, end_with_an_op_that_nobody_answers, 2, f"file://{tmp_path}/again")
    assert code in ("GroupClosed", "PeerLost")


def begin_again(rank, count, port_file):
    """The same store serves one group after the other, and each gets a group of Muster of its own."""
    dist.destroy_process_group()
    store = dist.FileStore(port_file, count)
    names = []
    for _ in range(3):
        dist.init_process_group("muster", store=store, rank=rank, world_size=count)
        tensor = torch.ones(1)
        dist.all_reduce(tensor)
        assert tensor.item() == count
        names.append(muster.torch.seat().muster_group.name)
        dist.barrier()
        dist.destroy_process_group()
    dist.init_process_group("muster", store=store, rank=rank, world_size=count)
    return names


def test_groups_one_after_the_other_over_one_store(shared_daemon, tmp_path):
    first, second = worlds.run(shared_daemon, begin_again, 2, str(tmp_path / "one"))
    assert first == second
    assert len(set(first)) == 3


def outlive_the_daemon(rank, count, daemon_pid):
    dist.barrier()
    if rank == 0:
        os.kill(daemon_pid, signal.SIGKILL)
    return worlds.outlive_the_daemon()


def test_a_daemon_that_dies():
    daemon = Daemon("--memory", "256MiB")
    try:
        assert worlds.run(daemon, outlive_the_daemon, 2, daemon.pid) == ["DaemonUnavailable"] * 2
    finally:
        daemon.kill()


def reach_the_next_daemon():
    deadline = time.monotonic() + worlds.PATIENCE_S
    while True:
        try:
            return muster.put(1.0)
        except muster.DaemonUnavailable:  # this process may not know yet that the first has ended
            assert time.monotonic() < deadline


def outlive_the_daemon_until_the_next(rank, count, store):
    worlds.join(rank, count, store)
    for command in ("stop", "start"):
        subprocess.run([os.environ["MUSTER_CLI"], command], check=True, capture_output=True, timeout=worlds.PATIENCE_S)
    code, _, _ = worlds.caught(lambda: [dist.barrier() for _ in range(2)])  # the first may only hear of the end
    reach_the_next_daemon()
    dist.destroy_process_group()
    worlds.join(rank, count, f"{store} of the next")
    dist.barrier()
    dist.destroy_process_group()
    subprocess.run([os.environ["MUSTER_CLI"], "stop"], check=True, capture_output=True, timeout=worlds.PATIENCE_S)
    return code


def test_a_group_ends_and_is_made_anew_when_another_daemon_runs(tmp_path):
    import muster.torch  # noqa: F401 (ranks are forked from a process that knows the backend)

    daemon = Daemon("--memory", "256MiB")
    try:
        with ranks(
            daemon, outlive_the_daemon_until_the_next, 1, 1, f"file://{tmp_path}/store", context=worlds.FORKSERVER
        ) as (_, results):
            _, is_good, code = results.get(timeout=worlds.PATIENCE_S)
            assert is_good, code
            assert code in ("DaemonUnavailable", "DaemonRestarted")
    finally:
        daemon.kill()


def join_without_a_daemon(rank, count, store):
    import muster.torch

    if rank == 0:
        with pytest.raises(muster.DaemonUnavailable):
            muster.init(start=False)
    return worlds.caught(worlds.join, rank, count, store)


def test_no_daemon_is_said_on_every_rank(shared_daemon, tmp_path):
    nowhere = {0: {"MUSTER_SOCKET": str(tmp_path / "nowhere")}}
    arguments = (2, f"file://{tmp_path}/store")
    with ranks(
        shared_daemon, join_without_a_daemon, 2, *arguments, context=worlds.FORKSERVER, environments=nowhere
    ) as (_, results):
        told = {rank: value for rank, _, value in (results.get(timeout=worlds.PATIENCE_S) for _ in range(2))}
    assert told[0][0] == told[1][0] == "DaemonUnavailable"
    assert "rank 0 can't take part" in told[1][2]


def join_elsewhere(rank, count, store):
    import muster.torch  # noqa: F401

    return worlds.caught(worlds.join, rank, count, store)


def test_ranks_with_different_daemons_are_told(shared_daemon, own_daemon, tmp_path):
    elsewhere = {1: {"MUSTER_SOCKET": own_daemon.socket}}
    arguments = (2, f"file://{tmp_path}/store")
    with ranks(shared_daemon, join_elsewhere, 2, *arguments, context=worlds.FORKSERVER, environments=elsewhere) as (
        _,
        results,
    ):
        told = worlds.told_by(results, 2)
    for code, _, message in told.values():
        assert code == "Invalid"
        assert own_daemon.socket in message
    assert told[0][1] == [1]
    assert "rank 1 can't take part" in told[0][2]


def join_without_another(rank, count, store):
    if rank == 1:
        dist.barrier()
        return None
    seconds = datetime.timedelta(seconds=0.5)
    found = worlds.caught(muster.torch.Seat, dist.PrefixStore("alone", dist.FileStore(store, 3)), 0, 3, seconds)
    dist.barrier()
    return found


def test_a_group_that_stays_incomplete_names_who_is_missing(shared_daemon, tmp_path):
    code, missing, message = worlds.run(shared_daemon, join_without_another, 2, str(tmp_path / "store"))[0]
    assert (code, missing) == ("Timeout", [1, 2])
    assert "the group was not complete within 0.5 s: no sign of ranks 1, 2" in message


def die_early(rank, count, store):
    import muster.torch

    told, take = dist.FileStore(store.removeprefix("file://") + " 2", 2), muster.group

    def take_and_tell(*arguments, **options):
        group = take(*arguments, **options)
        told.set("rank 0 has its seat", "")
        return group

    if rank == 0:
        muster.group = take_and_tell
    else:
        told.get("rank 0 has its seat")  # without a meeting it could be gone now
    worlds.join(rank, count, store)
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return [worlds.caught(call, torch.ones(1)) for call in (dist.all_reduce, dist.recv)]


def test_a_rank_that_dies_as_soon_as_it_can_was_there(shared_daemon, tmp_path):
    with ranks(shared_daemon, die_early, 2, 2, f"file://{tmp_path}/store", context=worlds.FORKSERVER) as (_, results):
        _, is_good, found = results.get(timeout=worlds.PATIENCE_S)
        assert is_good, found
    for code, missing, message in found:
        assert (code, missing) == ("PeerLost", [0])
        assert "rank 0 (pid" in message
        # The server of forks waits for it at once, and older kernels forget how it ended then.
        assert LINUX < (6, 15) or "signal 9" in message


END_EARLY = """
import sys, torch, torch.distributed as dist, muster.torch
rank = int(sys.argv[1])
dist.init_process_group("muster", init_method=sys.argv[2], rank=rank, world_size=2)
dist.barrier()
if rank == 1:
    {end}
try:
    dist.all_reduce(torch.ones(1))
except muster.PeerLost as error:
    print(error)
"""


@pytest.mark.parametrize("end", ["raise KeyError(1)", "sys.exit(1)", "sys.exit(0)"])
def test_a_rank_that_ends_without_leaving_has_not_left(shared_daemon, tmp_path, end):
    """Its interpreter ends in order, which frees its groups."""
    program = END_EARLY.replace("{end}", end)
    with contextlib.ExitStack() as processes:
        both = [
            processes.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program, str(rank), f"file://{tmp_path}/store"],
                    env={**os.environ, "MUSTER_SOCKET": shared_daemon.socket},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for rank in range(2)
        ]
        for process in both:
            processes.callback(process.kill)
        (told, errors), _ = (process.communicate(timeout=worlds.PATIENCE_S) for process in both)
    assert "rank 1 (pid" in told, errors
    assert ("ended" if "0" in end else "exited with status 1") in told


def wait_for_nobody(rank, count):
    """A store of its own ends its waits a little early."""
    store = dist.HashStore()
    short = datetime.timedelta(seconds=0.0501)
    return [worlds.caught(muster.torch.Seat, store, 0, 2, short)[:2] for _ in range(20)]


def test_a_wait_that_is_over_is_not_a_failure_of_the_store(shared_daemon):
    assert worlds.run(shared_daemon, wait_for_nobody, 1) == [[("Timeout", [1])] * 20]


def fail_early(rank, count):
    """The store fails at each of the calls that a rank makes."""

    class Failing:
        def __init__(self, calls):
            self.calls, self.store = calls, dist.HashStore()

        def __getattr__(self, name):
            self.calls -= 1
            if self.calls < 0:
                raise RuntimeError("it is gone")
            return getattr(self.store, name)

    second = datetime.timedelta(seconds=1)
    found = []
    for calls in range(7):
        found.append(worlds.caught(muster.torch.Seat, Failing(calls), 0, 1, second))
    assert muster.torch.Seat(Failing(7), 0, 1, second).size() == 1
    return found


def test_a_store_that_fails_is_told(shared_daemon):
    for code, missing, message in worlds.run(shared_daemon, fail_early, 1)[0]:
        assert (code, missing) == ("PeerLost", [0])
        assert "torch's store has failed: it is gone" in message


def try_again_over_the_same_store(rank, ranks, store):
    file = dist.FileStore(store, 2)
    short, long = datetime.timedelta(seconds=0.3), datetime.timedelta(seconds=30)
    found = []
    if rank == 0:  # it gives up before the other one has come
        found.append(worlds.caught(muster.torch.Seat, file, 0, 2, short)[:2])
    dist.barrier()
    if rank == 1:  # and hears of it at once
        found.append(worlds.caught(muster.torch.Seat, file, 1, 2, long)[:2])
    seat = muster.torch.Seat(file, rank, 2, long)
    tensor = torch.ones(1)
    seat.allreduce([tensor]).wait()
    dist.barrier()
    seat.shutdown()
    return found, tensor.item()


def test_ranks_meet_again_after_one_has_given_up(shared_daemon, tmp_path):
    told = worlds.run(shared_daemon, try_again_over_the_same_store, 2, str(tmp_path / "store"))
    assert told == [([("Timeout", [1])], 2.0), ([("Timeout", [0])], 2.0)]


def end_with_callbacks(rank, ranks, store):
    called = []
    for number in range(3):
        future = dist.all_reduce(torch.ones(1), async_op=True).get_future()
        future.then(lambda _, number=number: (time.sleep(0.1), called.append(number)))
    dist.destroy_process_group()
    told = list(called)
    worlds.join(rank, ranks, f"{store} again")
    return told


def test_the_end_waits_for_callbacks(shared_daemon, tmp_path):
    assert worlds.run(shared_daemon, end_with_callbacks, 2, f"file://{tmp_path}/store") == [[0, 1, 2]] * 2


def split_off(rank, ranks):
    split = dist.group.WORLD.split_group
    return split([0]).size() if worlds.GROUP_IS_TORCHS else worlds.caught(split, [0])


def test_a_group_is_split_or_says_that_it_cannot_be(shared_daemon):
    told = worlds.run(shared_daemon, split_off, 1)[0]
    if worlds.GROUP_IS_TORCHS:
        assert told == 1
    else:
        assert told[0] == "Invalid"
        assert "use new_group()" in told[2]
