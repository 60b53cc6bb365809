"""Bad input, and ranks that are late, lost or gone: an error of torch that is one of Muster, with the ranks."""

from __future__ import annotations

import datetime
import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path

import muster
import pytest
import torch
import torch.distributed as dist
import worlds
from torch._subclasses import FakeTensorMode

from daemon import Daemon, ranks


def caught(call, *arguments, **options):
    """Returns the error of a call: the names of its classes in torch and in Muster, its ranks and its message."""
    with pytest.raises(dist.DistBackendError) as found:
        call(*arguments, **options)
    assert isinstance(found.value, muster.Error)
    return found.value.code, found.value.ranks, str(found.value)


def on_ranks(*each):
    """A tensor by rank."""
    return lambda rank: each[rank]


# ---- ranks that disagree, and tensors that can't be ----

WRONG = {
    "sizes differ": (on_ranks(torch.ones(2), torch.ones(3)), "Mismatch", "shape is (2,) on rank 0 and (3,) on rank 1"),
    "dtypes differ": (on_ranks(torch.ones(2), torch.ones(2).double()), "Mismatch", "float64"),
    "another device": (on_ranks(torch.ones(2, device="meta"), torch.ones(2)), "Invalid", "a tensor is on meta"),
    "sparse dimensions differ": (
        on_ranks(torch.eye(2).to_sparse(1), torch.eye(2).to_sparse(2)),
        "Mismatch",
        "shape (2, 2) and 1 sparse dimensions",
    ),
    "another layout": (on_ranks(torch.ones(2).to_sparse(), torch.ones(2)), "Mismatch", "allgather"),
    "no such dtype": (on_ranks(torch.ones(2).to(torch.float8_e5m2), torch.ones(2)), "Invalid", "can't be reduced"),
}
if worlds.GROUP_IS_TORCHS:
    del WRONG["another device"]  # torch itself leaves tensors without memory out


def reduce_wrong_tensors(rank, count):
    found = {}
    for name, (tensors, _, _) in WRONG.items():
        found[name] = caught(dist.all_reduce, tensors(rank))
        after = torch.ones(1)  # the group goes on
        dist.all_reduce(after)
        assert after.item() == count
    return found


def test_tensors_that_do_not_fit_fail_on_every_rank(shared_daemon):
    for found in worlds.run(shared_daemon, reduce_wrong_tensors, 2):
        for name, (_, code, words) in WRONG.items():
            assert found[name][0] == code, (name, found[name])
            assert words in found[name][2], (name, found[name])


def use_wrong_arguments(rank, count):
    op = dist.ReduceOp
    messages = [
        caught(dist.all_reduce, torch.ones(2, dtype=torch.int64), op.AVG)[2],
        caught(dist.all_reduce, torch.ones(2), dist._make_nccl_premul_sum(2.0))[2],
        caught(dist.all_gather, [torch.ones(2)], torch.ones(2))[2],
        caught(dist.all_gather, [torch.ones(3), torch.ones(3)], torch.ones(2))[2],
        caught(dist.all_to_all_single, torch.ones(3), torch.ones(3))[2],
        caught(dist.all_to_all_single, torch.ones(3), torch.ones(3), [1, 1], [1, 2])[2],
        caught(dist.group.WORLD.allreduce, [torch.ones(1), torch.ones(1)])[2],
        caught(muster.torch.seat().allreduce, [torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)])[2],
    ]
    dist.barrier()
    return messages


def test_wrong_arguments_say_what_to_give(shared_daemon):
    wanted = [
        "AVG of torch.int64",
        "PREMUL_SUM",
        "the number of outputs is 1, and 2 are needed",
        "tensor 0 of the outputs has 3 elements of torch.float32, and 2",
        "3 rows can't be split evenly over 2 ranks",
        "output splits [1, 1] do not add up to 3 rows",
        "one tensor for an op, not 2",
        "quantized",
    ]
    for messages in worlds.run(shared_daemon, use_wrong_arguments, 2):
        for message, words in zip(messages, wanted):
            assert words in message


def receive_alone(rank, count):
    return caught(dist.recv, torch.ones(1))


def test_a_recv_from_any_source_needs_another_rank(shared_daemon):
    code, _, message = worlds.run(shared_daemon, receive_alone, 1)[0]
    assert code == "Invalid"
    assert "no other rank" in message


def receive_from_any_and_leave(rank, count):
    pending = dist.irecv(torch.ones(1)) if rank == 0 else None
    dist.barrier()
    future = pending.get_future() if rank == 0 else None
    dist.group.WORLD.shutdown()
    if rank == 0:
        with pytest.raises(RuntimeError, match="muster"):
            future.wait()
    dist.destroy_process_group()
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)


def test_a_recv_from_any_source_ends_when_this_rank_leaves(shared_daemon):
    worlds.run(shared_daemon, receive_from_any_and_leave, 2)


def broadcast_to_another_size(rank, count):
    if rank == 0:
        dist.broadcast(torch.ones(3), 0)
        return None
    return caught(dist.broadcast, torch.ones(2), 0)


def test_a_result_of_another_size_is_a_mismatch_where_it_arrives(shared_daemon):
    code, _, message = worlds.run(shared_daemon, broadcast_to_another_size, 2)[1]
    assert code == "Mismatch"
    assert "2 elements of torch.float32, and got 3" in message


def reduce_a_tensor_of_a_gpu(rank, count):
    # There is no GPU: a tensor without memory says that it is there.
    with FakeTensorMode():
        tensor = torch.empty(2, device="cuda")
    assert muster.torch.seat().errored() is None
    seat = muster.torch.seat()
    found = caught(seat.allreduce, [tensor]), caught(seat.send, [tensor], 1 - rank)
    assert muster.torch.seat().errored().code == "Invalid"
    return found


def test_a_tensor_of_a_gpu_is_refused_with_what_to_do(shared_daemon):
    for found in worlds.run(shared_daemon, reduce_a_tensor_of_a_gpu, 2):
        for code, _, message in found:
            assert code == "Invalid"
            assert "a tensor is on cuda:0" in message
            assert 'use "nccl"' in message


# ---- ranks that are late or lost ----


def leave_rank_0_waiting(rank, count):
    group, store = dist.group.WORLD, dist.distributed_c10d._get_default_store()
    if rank == 1:
        store.wait(["rank 0 has waited"])
        # What timed out is over for this rank, too: it has its outcome.
        return [caught(dist.barrier), caught(group.monitored_barrier)]
    short = datetime.timedelta(seconds=0.5)
    found = [caught(dist.barrier, timeout=short), caught(group.monitored_barrier, short)]
    group.set_timeout(short)
    found += [caught(dist.recv, torch.ones(1), 1), caught(dist.recv, torch.ones(1))]
    group.set_timeout(datetime.timedelta(seconds=30))
    store.set("rank 0 has waited", "")
    return found


def test_a_rank_that_does_not_come_is_named_by_a_timeout(shared_daemon):
    (barrier, monitored, received, nobody), outcomes = worlds.run(shared_daemon, leave_rank_0_waiting, 2)
    for code, missing, message in (barrier, monitored, received, *outcomes):
        assert (code, missing) == ("Timeout", [1])
        assert " Timed out " in message
    assert nobody[0] == "Timeout"
    assert "recv from any rank" in nobody[2]


def wait_shortly(rank, count):
    if rank == 0:
        tensor = torch.ones(1)
        work = dist.all_reduce(tensor, async_op=True)
        found = caught(work.wait, datetime.timedelta(seconds=0.2))
        dist.send(torch.ones(1), 1)
        assert work.wait()
        return found, tensor.item()
    dist.recv(torch.ones(1), 0)
    dist.all_reduce(torch.ones(1))
    return None


def test_a_wait_that_is_too_short_leaves_the_op_going(shared_daemon):
    (code, missing, message), total = worlds.run(shared_daemon, wait_shortly, 2)[0]
    assert (code, missing, total) == ("Timeout", [1], 2)
    assert "allreduce is not over after 0.2 s" in message


def die_as_rank_1(rank, count, store):
    import muster.torch

    worlds.join(rank, count, store)
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    found = caught(dist.all_reduce, torch.ones(1))
    future = dist.all_reduce(torch.ones(1), async_op=True).get_future()
    with pytest.raises(RuntimeError, match="rank 1"):
        future.wait()
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1), init_sync=False)
    with pytest.raises(RuntimeError, match=r"PeerLost.*rank 1"):
        model(torch.ones(1, 1)).sum().backward()
    error = muster.torch.seat().errored()
    assert isinstance(error, muster.PeerLost)
    assert error.ranks == [1]
    dist.destroy_process_group()
    return found


def test_a_killed_rank_is_named_on_the_others(shared_daemon, tmp_path):
    with ranks(shared_daemon, die_as_rank_1, 3, 3, f"file://{tmp_path}/store", context=worlds.FORKSERVER) as (
        _,
        results,
    ):
        for _ in range(2):
            rank, is_good, found = results.get(timeout=worlds.PATIENCE_S)
            assert is_good, found
            assert rank != 1
            assert found[:2] == ("PeerLost", [1])
            assert "closed by peer" in found[2]


def fail_while_another_thread_receives(rank, count):
    from muster.torch import _calls

    if rank == 1:
        error = caught(dist.all_reduce, torch.ones(1))
        dist.send(torch.full((1,), 7.0), 0)
        return error
    reduced, fails, goes_on = _calls.reduced, threading.Event(), threading.Event()

    def fail(*arguments):
        fails.set()
        goes_on.wait(1)  # the other thread would have started its op by then, if it could
        raise muster.Invalid("this rank has none", "")

    got = torch.zeros(1)
    receives = threading.Thread(target=lambda: (fails.wait(), dist.recv(got, 1), goes_on.set()))
    receives.start()
    _calls.reduced = fail
    error = caught(dist.all_reduce, torch.ones(1))
    _calls.reduced = reduced
    receives.join()
    return (*error, got.item())


def test_a_call_that_fails_in_one_thread_takes_no_op_of_another(shared_daemon):
    (code, _, _, got), (answer, _, message) = worlds.run(shared_daemon, fail_while_another_thread_receives, 2)
    assert (code, answer, got) == ("Invalid", "Invalid", 7.0)
    assert "rank 0 has no input for it: this rank has none" in message


def keep_no_frames(rank, count):
    kept, lengths = [], []

    def fail():
        mine = torch.ones(1)
        kept.append(weakref.ref(mine))
        work = dist.all_reduce(torch.ones(rank + 1), async_op=True)
        for _ in range(3):
            with pytest.raises(muster.Mismatch) as found:
                work.wait()
            lengths.append(len(found.traceback))

    fail()
    assert len(set(lengths)) == 1
    assert isinstance(muster.torch.seat().errored(), muster.Mismatch)
    gc.collect()
    return kept[0]() is None


def test_errors_keep_no_frames_and_do_not_grow(shared_daemon):
    assert worlds.run(shared_daemon, keep_no_frames, 2) == [True, True]


def use_tensors_around_others(rank, count):
    from torch.distributed import _functional_collectives as functional

    result = functional.all_reduce(torch.ones(2), "sum", dist.group.WORLD)
    dist.all_reduce(result)
    empty = torch.ones(2)
    empty.untyped_storage().resize_(0)
    code, _, message = caught(dist.all_reduce, empty)
    return result.tolist(), code, message


def test_tensors_around_others_and_tensors_without_memory(shared_daemon):
    for values, code, message in worlds.run(shared_daemon, use_tensors_around_others, 2):
        assert values == [4, 4]
        assert code == "Invalid"
        assert "its storage is empty" in message


def gather_in_a_smaller_group(rank, count, store):
    import muster.torch

    worlds.join(rank, count, store)
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _, _, lost = caught(dist.all_reduce, torch.ones(1))
    muster.torch.seat().muster_group.reform()
    return lost, caught(dist.all_gather, [torch.ones(1) for _ in range(count)], torch.ones(1))[0]


def test_a_smaller_group_is_refused_where_values_would_be_at_wrong_places(shared_daemon, tmp_path):
    arguments = (3, f"file://{tmp_path}/store")
    with ranks(shared_daemon, gather_in_a_smaller_group, 3, *arguments, context=worlds.FORKSERVER) as (_, results):
        for _ in range(2):
            _, is_good, found = results.get(timeout=worlds.PATIENCE_S)
            assert is_good, found
            lost, code = found
            assert "hint: destroy the process group" in lost
            assert code == "Mismatch"


def ask_for_seats(rank, count):
    group = dist.new_group([0])
    if rank == 0:
        return isinstance(muster.torch.seat(group), muster.torch.Seat)
    with pytest.raises(muster.Invalid, match="is no group of the backend 'muster'"):
        muster.torch.seat(group)
    return True


def test_a_group_without_this_rank_has_no_seat(shared_daemon):
    assert worlds.run(shared_daemon, ask_for_seats, 2) == [True, True]


# ---- the ends of groups and daemons ----


def use_groups_that_are_over(rank, count, store):
    with pytest.raises(ValueError, match="twice"):
        worlds.join(rank, count, store)
    group = dist.group.WORLD
    dist.barrier()
    dist.destroy_process_group()
    found = caught(group.allreduce, torch.ones(1))
    with pytest.raises(ValueError, match="has not been initialized"):
        dist.all_reduce(torch.ones(1))
    group.abort()
    worlds.join(rank, count, store)
    return found


def test_calls_after_the_end_and_two_default_groups(shared_daemon, tmp_path):
    for found in worlds.run(shared_daemon, use_groups_that_are_over, 2, f"file://{tmp_path}/again"):
        assert found[0] == "GroupClosed"


def end_with_ops_on_their_way(rank, count, store):
    sums = []
    for run in range(10):
        tensor = torch.ones(1 << 20)
        work = dist.all_reduce(tensor, async_op=True)
        dist.destroy_process_group()
        assert work.wait()
        sums.append(tensor.unique().tolist())
        worlds.join(rank, count, f"{store}{run}")
    return sums


def test_ops_that_all_ranks_have_begun_are_over_at_the_end(shared_daemon, tmp_path):
    for sums in worlds.run(shared_daemon, end_with_ops_on_their_way, 2, f"file://{tmp_path}/again"):
        assert sums == [[2]] * 10


def end_with_an_op_that_nobody_answers(rank, count, store):
    from muster.torch import _calls

    _calls._WAIT_AT_THE_END_S = 3600.0
    work = dist.all_reduce(torch.ones(1), async_op=True) if rank == 0 else None
    dist.group.WORLD.abort()
    dist.destroy_process_group()
    worlds.join(rank, count, store)
    return None if work is None else caught(work.wait)[0]


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

    def work_until_it_has_ended():
        while True:
            dist.all_reduce(torch.ones(1))

    code, _, _ = caught(work_until_it_has_ended)
    dist.destroy_process_group()
    # What follows in worlds.run() needs a group that works.
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    return code


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
    code, _, _ = caught(lambda: [dist.barrier() for _ in range(2)])  # the first may only hear of the end
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
    return caught(worlds.join, rank, count, store)


def test_no_daemon_is_said_on_every_rank(shared_daemon, tmp_path):
    nowhere = {0: {"MUSTER_SOCKET": str(tmp_path / "nowhere")}}
    arguments = (2, f"file://{tmp_path}/store")
    with ranks(
        shared_daemon, join_without_a_daemon, 2, *arguments, context=worlds.FORKSERVER, environments=nowhere
    ) as (_, results):
        told = {rank: value for rank, _, value in (results.get(timeout=worlds.PATIENCE_S) for _ in range(2))}
    assert told[0][0] == told[1][0] == "DaemonUnavailable"
    assert "rank 0 can't take its seat" in told[1][2]


def join_elsewhere(rank, count, store):
    import muster.torch  # noqa: F401

    if rank == 1:
        return caught(worlds.join, rank, count, store)
    worlds.join(rank, count, store)
    return None


def test_ranks_with_different_daemons_are_told(shared_daemon, own_daemon, tmp_path):
    elsewhere = {1: {"MUSTER_SOCKET": own_daemon.socket}}
    arguments = (2, f"file://{tmp_path}/store")
    with ranks(shared_daemon, join_elsewhere, 2, *arguments, context=worlds.FORKSERVER, environments=elsewhere) as (
        _,
        results,
    ):
        told = {rank: (is_good, value) for rank, is_good, value in (results.get(timeout=60) for _ in range(2))}
    is_good, found = told[1]
    assert is_good, found
    assert found[0] == "Invalid"
    assert own_daemon.socket in found[2]


# ---- torch itself ----


def test_a_torch_that_is_too_old_or_too_new():
    from muster.torch import _versions

    _versions.check_version("2.13.1+cpu")
    _versions.check_version("2.14.0")
    for version, words in (("2.12.0", "too old"), ("1.13", "too old"), ("2.15.0a0", "too new"), ("3.0", "too new")):
        with pytest.raises(muster.Invalid, match=words):
            _versions.check_version(version)
    with pytest.raises(muster.Invalid, match="makes no sense"):
        _versions.check_version("unknown")


def test_torchcomms_is_said(tmp_path):
    package = tmp_path / "torchcomms"
    package.mkdir()
    (package / "__init__.py").write_text(
        "def new_comm(*_, **__): raise RuntimeError('no such backend')\ndef is_backend_built(_): return False\n"
    )
    (package / "_comms.py").write_text("class _BackendWrapper: ...\n")
    (package / "hooks.py").write_text("class FlightRecorderHook: ...\n")
    environment = {
        **os.environ,
        "TORCH_DISTRIBUTED_USE_TORCHCOMMS": "1",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", "import muster.torch"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=worlds.PATIENCE_S,
    )
    # Newer versions of torch ask torchcomms only for the backends that it has.
    assert ("TORCH_DISTRIBUTED_USE_TORCHCOMMS is set" in done.stderr) is not worlds.GROUP_IS_TORCHS


def test_importing_muster_imports_no_torch():
    told = "import sys, muster; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", told], check=True, timeout=worlds.PATIENCE_S)


def test_the_entry_point_names_what_registers():
    text = Path(__file__).parents[2].joinpath("pyproject.toml").read_text()
    assert '[project.entry-points."torch.distributed.backends"]\nmuster = "muster.torch:register"' in text
