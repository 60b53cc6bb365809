"""Bad input, and ranks that are late or lost: an error of torch that is one of Muster, with the ranks."""

from __future__ import annotations

import datetime
import gc
import os
import signal
import tempfile
import threading
import weakref

import muster
import pytest
import torch
import torch.distributed as dist
import worlds
from torch._subclasses import FakeTensorMode

from daemon import ranks


def on_ranks(*each):
    """A tensor by rank."""
    return lambda rank: each[rank]


# ---- ranks that disagree, and tensors that can't be ----

WRONG = {
    "sizes differ": (on_ranks(torch.ones(2), torch.ones(3)), "Mismatch", "shape is ("),
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
        found[name] = worlds.caught(dist.all_reduce, tensors(rank))
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
    op, seat = dist.ReduceOp, muster.torch.seat()
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    messages = [
        worlds.caught(dist.all_reduce, torch.ones(2, dtype=torch.int64), op.AVG)[2],
        worlds.caught(dist.all_reduce, torch.ones(2), dist._make_nccl_premul_sum(2.0))[2],
        worlds.caught(dist.all_gather, [torch.ones(2)], torch.ones(2))[2],
        worlds.caught(dist.all_gather, [torch.ones(3), torch.ones(3)], torch.ones(2))[2],
        worlds.caught(dist.all_to_all_single, torch.ones(3), torch.ones(3))[2],
        worlds.caught(dist.all_to_all_single, torch.ones(3), torch.ones(3), [1, 1], [1, 2])[2],
        worlds.caught(dist.group.WORLD.allreduce, [torch.ones(1), torch.ones(1)])[2],
        worlds.caught(seat.allreduce, [quantized])[2],
        worlds.caught(seat.allreduce, [nested])[2],
        worlds.caught(seat.allreduce, [torch.ones(2, dtype=torch.complex32)])[2],
        worlds.caught(seat.allreduce_coalesced, [torch.ones(1), torch.ones(1, dtype=torch.bool)])[2],
        worlds.caught(seat.all_gather_single_coalesced, [torch.ones(2)], [torch.ones(1), torch.ones(1)])[2],
    ]
    work = seat.barrier()
    for wrong in (5, None):
        with pytest.raises(TypeError, match=r"timeout is a datetime\.timedelta, not"):
            work.wait(wrong)
    work.wait()
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
        "nested",
        "give them as torch.complex64",
        "tensors of bool and of other dtypes can't be reduced in one op",
        "the number of outputs is 1, and 2 are needed",
    ]
    for messages in worlds.run(shared_daemon, use_wrong_arguments, 2):
        for message, words in zip(messages, wanted, strict=True):
            assert words in message


def receive_alone(rank, count):
    return worlds.caught(dist.recv, torch.ones(1))


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


def gather_other_sizes(rank, count):
    given = torch.ones(2 + rank)
    return worlds.caught(dist.all_gather_into_tensor, torch.ones(2 * given.numel()), given)


def test_a_gathered_tensor_of_another_size_is_a_mismatch(shared_daemon):
    for code, _, message in worlds.run(shared_daemon, gather_other_sizes, 2):
        assert code == "Mismatch"
        assert "give tensors of equal size" in message


def broadcast_to_another_size(rank, count):
    if rank == 0:
        dist.broadcast(torch.ones(3), 0)
        return None
    return worlds.caught(dist.broadcast, torch.ones(2), 0)


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
    found = worlds.caught(seat.allreduce, [tensor]), worlds.caught(seat.send, [tensor], 1 - rank)
    assert muster.torch.seat().errored().code == "Invalid"
    return found


def test_a_tensor_of_a_gpu_that_cannot_be_used_is_refused_with_why(shared_daemon):
    for found in worlds.run(shared_daemon, reduce_a_tensor_of_a_gpu, 2):
        for code, _, message in found:
            assert code == "Invalid"
            assert "CUDA driver" in message or "its memory is not" in message


# ---- ranks that are late or lost ----


def leave_rank_0_waiting(rank, count):
    group, store = dist.group.WORLD, dist.distributed_c10d._get_default_store()
    if rank == 1:
        store.wait(["rank 0 has waited"])
        # What timed out is over for this rank, too: it has its outcome.
        return [worlds.caught(dist.barrier), worlds.caught(group.monitored_barrier)]
    short = datetime.timedelta(seconds=0.5)
    found = [worlds.caught(dist.barrier, timeout=short), worlds.caught(group.monitored_barrier, short)]
    group.set_timeout(short)
    found += [worlds.caught(dist.recv, torch.ones(1), 1), worlds.caught(dist.recv, torch.ones(1))]
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
        for _ in range(50):  # a daemon that is busy may not say in time who is missing
            found = worlds.caught(work.wait, datetime.timedelta(seconds=0.2))
            if found[1]:
                break
        dist.send(torch.ones(1), 1)
        assert work.wait()
        return found, tensor.item()
    dist.recv(torch.ones(1), 0)
    dist.all_reduce(torch.ones(1))
    return None


def test_a_wait_that_is_too_short_leaves_the_op_going(shared_daemon):
    (code, missing, message), total = worlds.run(shared_daemon, wait_shortly, 2)[0]
    assert (code, missing, total) == ("Timeout", [1], 2)
    assert "allreduce was not over after 0.2 s; still missing: rank 1" in message


def die_as_rank_1(rank, count, store):
    import muster.torch

    worlds.join(rank, count, store)
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    found = worlds.caught(dist.all_reduce, torch.ones(1))
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
        error = worlds.caught(dist.all_reduce, torch.ones(1))
        dist.send(torch.full((1,), 7.0), 0)
        return error
    reduced, fails, goes_on = _calls.reduced, threading.Event(), threading.Event()

    def fail(*arguments):
        fails.set()
        assert goes_on.wait(worlds.PATIENCE_S)
        raise muster.Invalid("this rank has none", "")

    got = torch.zeros(1)

    def receive():
        assert fails.wait(worlds.PATIENCE_S)
        work = dist.irecv(got, 1)
        goes_on.set()
        work.wait()

    receives = threading.Thread(target=receive)
    receives.start()
    _calls.reduced = fail
    error = worlds.caught(dist.all_reduce, torch.ones(1))
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
    code, _, message = worlds.caught(dist.all_reduce, empty)
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
    _, _, lost = worlds.caught(dist.all_reduce, torch.ones(1))
    muster.torch.seat().muster_group.reform()
    return lost, worlds.caught(dist.all_gather, [torch.ones(1) for _ in range(count)], torch.ones(1))[0]


def test_a_smaller_group_is_refused_where_values_would_be_at_wrong_places(shared_daemon, tmp_path):
    arguments = (3, f"file://{tmp_path}/store")
    with ranks(shared_daemon, gather_in_a_smaller_group, 3, *arguments, context=worlds.FORKSERVER) as (_, results):
        for _ in range(2):
            _, is_good, found = results.get(timeout=worlds.PATIENCE_S)
            assert is_good, found
            lost, code = found
            assert "hint: destroy the process group" in lost
            assert code == "Mismatch"
