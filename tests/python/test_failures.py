"""Processes that die, stop, leave and come back; daemons that end."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import threading
import time

import muster
import numpy as np
import pytest

from daemon import SPAWN, Daemon, ranks, run_ranks

KNOWN_S = 1.0  # the daemon knows of a lost rank within this


def _survive(rank, barrier, told, on_loss):
    group = muster.group("g", rank=rank, world_size=4, on_loss=on_loss)
    value = group.allreduce(np.full(1 << 16, rank, np.float32)).result()
    assert value[0] == 6
    barrier.wait(60)
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        result = group.allreduce(np.ones(4)).result()
        outcome = ("done", float(result[0]))
    except muster.Error as error:
        outcome = (type(error).__name__, error.ranks)
    try:
        again = ("done", float(group.allreduce(1.0).result()))
    except muster.Error as error:
        again = (type(error).__name__, error.ranks)
    answer = outcome, again, group.live, muster.status()["clients"]
    told.wait(60)
    return answer


@pytest.mark.parametrize(
    ("on_loss", "outcome"),
    [("fail", ("PeerLost", [2])), ("shrink", ("done", 3.0))],
)
def test_a_killed_rank(own_daemon, on_loss, outcome):
    with ranks(own_daemon, _survive, 4, SPAWN.Barrier(4), SPAWN.Barrier(3), on_loss) as (_, results):
        for _ in range(3):
            _, good, (first, second, live, clients) = results.get(timeout=60)
            assert good
            assert first == second == outcome
            assert live == [0, 1, 3]
            assert clients <= 3


def _remembering(rank):
    return muster.group("g", rank=rank, world_size=2, on_loss="wait", timeout=60, history="1MiB")


def _go_without_the_result(rank, replaced):
    group = _remembering(rank)
    group.barrier().result()  # a group without another member would end with this one
    work = group.allreduce(np.full(4, rank + 1.0), key="step")
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    value = work.result()[0]
    assert replaced.wait(60)
    # A rank that retries gets the same, alone.
    again = group.allreduce(np.zeros(4), key="step").result()[0]
    with pytest.raises(muster.Mismatch, match="the key 'step' names allreduce of op='sum'"):
        group.allreduce(np.zeros(4), op="max", key="step").result()
    return value, again


def _take_the_seat(_rank, replaced):
    value = _remembering(1).allreduce(np.full(4, 100.0), key="step").result()[0]
    replaced.set()
    return value


def test_who_takes_a_seat_gets_the_outcome_that_its_predecessor_did_not_read(own_daemon):
    replaced = SPAWN.Event()
    with ranks(own_daemon, _go_without_the_result, 2, replaced) as (processes, results):
        processes[1].join(60)
        assert run_ranks(own_daemon, _take_the_seat, 1, replaced) == [3]
        _, good, values = results.get(timeout=60)
        assert good
        assert values == (3, 3)


def _die_within(rank, barrier, times):
    group = muster.group("g", rank=rank, world_size=2)
    group.barrier().result()
    if rank == 1:
        barrier.wait(60)
        times.put(time.monotonic())
        time.sleep(0)
        os.kill(os.getpid(), signal.SIGKILL)
    work = group.allreduce(1)
    barrier.wait(60)
    with pytest.raises(muster.PeerLost):
        work.result()
    return time.monotonic()


def test_survivors_know_of_a_kill_soon(own_daemon):
    # Checks the bound that the design promises, with room for a loaded machine. bench/ measures how fast it really is.
    times = SPAWN.SimpleQueue()
    with ranks(own_daemon, _die_within, 2, SPAWN.Barrier(2), times) as (_, results):
        rank, good, told = results.get(timeout=60)
        assert good, told
        assert rank == 0
        assert told - times.get() < 10 * KNOWN_S


def _reform(rank, barrier):
    group = muster.group("g", rank=rank, world_size=3)
    group.barrier().result()
    barrier.wait(60)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(muster.PeerLost):
        group.barrier().result()
    group.reform()
    return group.epoch, group.live, int(group.allreduce(rank).result())


def test_survivors_reform_and_go_on(own_daemon):
    with ranks(own_daemon, _reform, 3, SPAWN.Barrier(3)) as (_, results):
        for _ in range(2):
            _, good, value = results.get(timeout=60)
            assert good, value
            assert value == (2, [0, 2], 2)


def _replaceable(rank, lost, joined):
    group = muster.group("g", rank=rank, world_size=2, on_loss="wait", timeout=60)
    assert int(group.allreduce(1).result()) == 2
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    work = group.allreduce(10)
    lost.set()
    value = int(work.result())
    assert joined.wait(60)
    return value


def _replacement(_rank, joined):
    group = muster.group("g", rank=1, world_size=2, on_loss="wait", timeout=60)
    owed = group.owes
    value = int(group.allreduce(20).result())
    joined.set()
    return owed, group.position, value


def test_a_replacement_takes_the_seat_and_the_pending_op_completes(own_daemon):
    lost, joined = SPAWN.Event(), SPAWN.Event()
    with ranks(own_daemon, _replaceable, 2, lost, joined) as (processes, results):
        assert lost.wait(60)
        processes[1].join(60)
        owed, position, value = run_ranks(own_daemon, _replacement, 1, joined)[0]
        assert [(kind, sequence) for kind, sequence, _ in owed] == [("allreduce", 1)]
        assert position == 2
        assert value == 30
        _, good, first = results.get(timeout=60)
        assert good
        assert first == 30


def _stopped(rank, contributed):
    group = muster.group("g", rank=rank, world_size=2)
    group.barrier().result()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        return int(group.allreduce(1).result())
    with pytest.raises(muster.Timeout) as error:
        group.barrier(timeout=0.3).result()
    assert error.value.ranks == [1]
    contributed.set()
    return int(group.allreduce(1, timeout=60).result())


def test_a_stopped_rank_is_a_timeout_and_goes_on_later(own_daemon):
    contributed = SPAWN.Event()
    with ranks(own_daemon, _stopped, 2, contributed) as (processes, results):
        assert contributed.wait(60)
        os.kill(processes[1].pid, signal.SIGCONT)
        outcomes = {rank: (good, value) for rank, good, value in (results.get(timeout=60) for _ in range(2))}
    # Rank 1's first op after waking is the barrier that timed out: it gets the recorded outcome.
    assert outcomes[1][0] is False
    assert "Timeout" in outcomes[1][1] or "Mismatch" in outcomes[1][1]


def _wait_for_missing(rank, told, asked, over):
    if rank == 3:
        return None  # it never joins
    group = muster.group("g", rank=rank, world_size=4)
    if rank == 1:
        work = group.send(np.ones(1), 0, tag=7, timeout=60)
        muster.status()  # the contribution has arrived
    if rank != 0:
        told.put((rank, os.getpid()))
    if rank == 1:
        asked.wait(60)
        told.put(work.done())
    if rank == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
        over.wait(60)
    if rank != 0:
        return None
    known = dict(told.get() for _ in range(2))
    while pathlib.Path(f"/proc/{known[2]}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        os.sched_yield()
    try:
        messages = []
        for kind in ("allreduce", "recv"):
            with pytest.raises(muster.Timeout) as error:
                group.allreduce(1, timeout=0.1).result() if kind == "allreduce" else group.recv(2, timeout=0.1).result()
            messages.append(str(error.value))
        asked.set()  # set while all ranks live: the loss of one ends the send
        return known, messages, told.get()
    finally:
        os.kill(known[2], signal.SIGCONT)
        over.set()


def _wait_for_room(rank, pids, seen):
    group = muster.group("g", rank=rank, world_size=2)
    if rank == 1:
        held = muster.put(np.zeros(40 << 20, np.uint8))
        pids.put(os.getpid())
        threading.Thread(target=lambda: (seen.wait(60), held.free())).start()
        return muster.put(np.zeros(40 << 20, np.uint8), timeout=60).nbytes
    waits = f"rank 1 (pid {pids.get()} on {os.uname().nodename}) waits for memory, as "
    message = ""
    while waits not in message:  # until the rank has begun to wait
        with pytest.raises(muster.Timeout) as error:
            group.allreduce(1, timeout=0.05).result()
        message = str(error.value)
    seen.set()
    return message


def test_a_timeout_says_that_a_missing_rank_waits_for_memory():
    daemon = Daemon("--memory", "64MiB")
    outcomes = run_ranks(daemon, _wait_for_room, 2, SPAWN.SimpleQueue(), SPAWN.Event())
    daemon.stop()
    assert "muster ls shows who holds what" in outcomes[0]
    assert re.search(
        r"waits for memory, as the store is full: .* of 64 MiB are held.*, the request asks for 40 MiB more",
        outcomes[0],
    )
    assert outcomes[1] == 40 << 20


def test_a_timeout_says_where_the_missing_ranks_are(own_daemon):
    outcomes = run_ranks(own_daemon, _wait_for_missing, 4, SPAWN.SimpleQueue(), SPAWN.Event(), SPAWN.Event())
    pids, (all_missing, stopped), send_is_done = outcomes[0]
    assert f"rank 1 (pid {pids[1]} on {os.uname().nodename}) waits in send to rank 0 with tag 7" in all_missing
    assert f"rank 2 (pid {pids[2]} on {os.uname().nodename}) is stopped" in all_missing
    assert f"rank 2 (pid {pids[2]} on {os.uname().nodename}) is stopped" in stopped
    assert "kill -CONT" in stopped
    assert send_is_done is False


def _never_joins(rank):
    if rank == 1:
        return None
    with pytest.raises(muster.Timeout) as error:
        muster.group("g", rank=rank, world_size=2).barrier(timeout=0.1).result()
    return str(error.value)


def test_a_timeout_names_a_rank_that_never_joined(own_daemon):
    message, _ = run_ranks(own_daemon, _never_joins, 2)
    assert "rank 1 has not joined the group" in message
    assert "start it" in message


ENDS = {
    "was killed by signal 9 (Killed)": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exited with status 3": lambda: os._exit(3),
    "ended": lambda: os._exit(0),
}


def _end(rank, how, pids):
    group = muster.group("g", rank=rank, world_size=2)
    group.barrier().result()
    if rank == 1:
        pids.put(os.getpid())
        ENDS[how]()
        return None
    with pytest.raises(muster.PeerLost) as error:
        group.barrier().result()
    return str(error.value)


@pytest.mark.parametrize("how", ENDS)
def test_a_lost_rank_is_told_with_its_process_and_its_end(own_daemon, how):
    pids = SPAWN.SimpleQueue()
    with ranks(own_daemon, _end, 2, how, pids) as (_, results):
        while True:
            rank, good, message = results.get(timeout=60)
            if rank == 0:
                break
        assert good, message
        assert f"rank 1 (pid {pids.get()} on {os.uname().nodename}) {how}" in message


def _joins_and_goes(rank, how, pids):
    group = None
    if rank == 1:
        group = muster.group("g", rank=1, world_size=2)
        pids.put(os.getpid())
        if how == "left":
            return group.leave()
        ENDS[how]()
    pid, message = pids.get(), ""
    while "had joined" not in message:  # until the daemon knows of its end, rank 0 may find the old group
        group = muster.group("g", rank=0, world_size=2)
        with pytest.raises((muster.Timeout, muster.PeerLost)) as error:
            group.barrier(timeout=0.1).result()
        message = str(error.value)
        group.leave()
    return type(error.value).__name__, pid, message


@pytest.mark.parametrize("how", [*ENDS, "left"])
def test_a_timeout_tells_how_a_rank_went_that_had_joined(own_daemon, how):
    with ranks(own_daemon, _joins_and_goes, 2, how, SPAWN.SimpleQueue()) as (_, results):
        while True:
            rank, good, outcome = results.get(timeout=60)
            assert good, outcome
            if rank == 0:
                break
    name, pid, message = outcome
    assert name == "Timeout"
    assert f"rank 1 (pid {pid} on {os.uname().nodename}) had joined and {how} " in message
    assert "until the others no longer need it" in message


def _exit_early(rank):
    group = muster.group("g", rank=rank, world_size=2)
    group.barrier().result()  # a group ends with its last member, so both ranks are here
    if rank == 1:
        group.allreduce(5)
        muster.status()  # the contribution has arrived
        os._exit(0)
    return int(group.allreduce(1).result())


def test_a_rank_that_contributed_and_exits_fails_nothing(own_daemon):
    with ranks(own_daemon, _exit_early, 2) as (_, results):
        rank, good, value = results.get(timeout=60)
        assert good, value
        assert (rank, value) == (0, 6)


def _left(rank):
    group = muster.group("g", rank=rank, world_size=2)
    group.barrier().result()
    if rank == 1:
        group.leave()
        with pytest.raises(muster.GroupClosed):
            group.barrier()
        return None
    with pytest.raises(muster.PeerLost) as error:
        group.barrier().result()
    return error.value.ranks


def test_leaving(own_daemon):
    assert run_ranks(own_daemon, _left, 2) == [[1], None]


def _go_on_in_two(rank, how):
    group = muster.group("g", rank=rank, world_size=3)
    group.barrier().result()
    if rank == 2:
        return group.leave() if how == "leaves" else os._exit(0)
    with pytest.raises(muster.PeerLost) as error:  # so the rank is gone from here on
        group.barrier().result()
    assert error.value.ranks == [2]
    try:
        return int((group.send(5, dst=1) if rank == 0 else group.recv(src=0)).result() or 0)
    except muster.PeerLost as error:
        return error.ranks


@pytest.mark.parametrize(("how", "received"), [("leaves", 5), ("exits", [2])])
def test_two_ranks_go_on_when_another_has_left(own_daemon, how, received):
    with ranks(own_daemon, _go_on_in_two, 3, how) as (_, results):
        told = {}
        while not told.keys() >= {0, 1}:
            rank, good, value = results.get(timeout=60)
            assert good, value
            told[rank] = value
    assert told[1] == received


def _wait_for_end(rank, ready):
    group = muster.group("g", rank=rank, world_size=2)
    work = group.barrier()
    muster.status()
    ready.set()
    with pytest.raises(muster.DaemonUnavailable) as error:
        work.result()
    return str(error.value)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_daemon_is_told_to_waiters(how):
    daemon = Daemon()
    ready = SPAWN.Event()
    with ranks(daemon, _wait_for_end, 1, ready) as (_, results):
        assert ready.wait(60)
        daemon.process.send_signal(how)
        daemon.process.wait(30)
        _, good, message = results.get(timeout=60)
        assert good, message
        if how == signal.SIGTERM:
            assert "SIGTERM" in message
    daemon.log.close()


def _fill(_rank):
    held = []

    def fill():
        while True:
            held.append(muster.put(np.zeros(8 << 20, np.uint8), timeout=0.1))

    with pytest.raises(muster.OutOfMemory, match=rf"\(pid {os.getpid()}\): ") as error:
        fill()
    assert len(held) >= 5
    held.clear()
    # All memory came back.
    again = [muster.put(np.zeros(8 << 20, np.uint8), timeout=5) for _ in range(5)]
    return len(again), error.value.hint != ""


def test_a_full_store_says_who_holds_what_and_recovers():
    daemon = Daemon("--memory", "64MiB")
    try:
        assert run_ranks(daemon, _fill, 1) == [(5, True)]
    finally:
        daemon.stop()


def test_a_decorated_call_waits_for_room_as_long_as_it_was_told():
    daemon = Daemon("--memory", "64MiB")
    try:
        assert run_ranks(daemon, _deposit_in_a_full_store, 1) == [("OutOfMemory", "OutOfMemory")]
    finally:
        daemon.stop()


def _deposit_in_a_full_store(rank):
    """Must end well before the 30 s that a call waits by default, and before the harness gives up."""
    kept = []
    with contextlib.suppress(muster.OutOfMemory):
        while True:
            kept.append(muster.put(np.zeros(8 << 20, np.uint8), timeout=0.01))
    elsewhere = np.zeros(8 << 20, np.uint8)

    @muster.collective_input(timeout=1e-3)
    def one():
        return elsewhere

    @muster.collective_input
    def other():
        return elsewhere

    outcomes = []
    for call in (one, other.options(timeout=1e-3)):
        with pytest.raises(muster.OutOfMemory) as error:
            call()
        outcomes.append(error.value.code)
    return tuple(outcomes)


def _leak(rank, barrier):
    group = muster.group("g", rank=rank, world_size=2)
    refs = [muster.put(np.zeros(1 << 16)) for _ in range(50)]
    results = [group.allreduce(ref).result() for ref in refs]
    barrier.wait(60)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    refs.clear()
    results.clear()
    while muster.status()["clients"] > 1:
        pass
    group.leave()
    while muster.status()["objects"]:  # what the dead client held goes in pieces
        pass
    return muster.status()["objects"]


def test_nothing_of_a_dead_client_is_left(own_daemon):
    with ranks(own_daemon, _leak, 2, SPAWN.Barrier(2)) as (_, results):
        _, good, objects = results.get(timeout=60)
        assert good, objects
        assert objects == 0


@pytest.mark.parametrize("timeout", [-1, 0, 0.0, 86_401, "a", None])
def test_all_timeouts_that_a_group_can_not_have_are_refused_in_the_same_words(muster, timeout):
    with pytest.raises(muster.Invalid) as error:
        muster.group("impatient", rank=0, world_size=1, timeout=timeout)
    assert error.value.message == f"timeout={timeout!r} is not valid"
    assert error.value.hint == "give more than 0 seconds, and at most 86400, a day"


def test_a_group_may_have_a_timeout_of_a_day(muster):
    work = muster.group("patient", rank=0, world_size=2, timeout=86_400).barrier()
    for bound, told in ((0.05, "is not over after 0.0"), (0, "is not over yet; still missing: rank 1")):
        with pytest.raises(muster.Timeout, match=told):
            work.result(timeout=bound)


@pytest.mark.parametrize("timeout", [float("inf"), 1e10, 1e300, -1, -0.001])
def test_a_timeout_that_no_op_can_have_is_refused_at_once(muster, timeout):
    with pytest.raises(muster.Invalid, match="give more than 0 seconds, and at most 86400, a day"):
        muster.group("impatient", rank=0, world_size=1, timeout=timeout)
    with muster.group("no-such-time", rank=0, world_size=1) as group:
        for call in (group.barrier, lambda timeout: group.allreduce(1, timeout=timeout)):
            with pytest.raises(muster.Invalid, match="give 0 to 86400 seconds"):
                call(timeout=timeout)
        # The call takes no place in the order.
        assert group.allreduce(7).result(timeout=10) == 7
    for call in (
        lambda: muster.put(np.ones(3), timeout=timeout),
        lambda: muster.collective_input(np.ones, timeout=timeout),
        lambda: muster.collective_input(np.ones).options(timeout=timeout),
    ):
        with pytest.raises(muster.Invalid, match="give 0 to 86400 seconds"):
            call()


@pytest.mark.parametrize("timeout", [-1, -0.001, float("-inf"), float("nan"), "a", [1]])
@pytest.mark.parametrize("is_over", [False, True])
def test_a_wait_is_bounded_by_a_time_that_can_be(muster, timeout, is_over):
    with muster.group("no-bound", rank=0, world_size=1 if is_over else 2) as group:
        work = group.allreduce(np.ones(3))
        for call in (work.result, work.wait, work.exception, lambda timeout: muster.wait([work], timeout=timeout)):
            with pytest.raises(muster.Invalid, match="timeout=") as raised:
                call(timeout=timeout)
            assert "seconds" in raised.value.hint
        assert work.wait(float("inf") if is_over else 0) == is_over


def test_a_timeout_that_is_no_time_is_refused(muster):
    nan = float("nan")
    with pytest.raises(muster.Invalid, match="nan"):
        muster.group("nan", rank=0, world_size=1, timeout=nan)
    with muster.group("no-time", rank=0, world_size=1) as group:
        work = group.allreduce(1)
        for call in (lambda bad: group.allreduce(1, timeout=bad), work.result, lambda bad: muster.wait([work], 1, bad)):
            with pytest.raises(muster.Invalid, match="nan"):
                call(nan)
            with pytest.raises(muster.Invalid, match="timeout='5'"):
                call("5")
        with pytest.raises(muster.Invalid, match="int among the items"):
            muster.wait([5])


def test_a_with_block_may_leave_its_group_and_keeps_its_own_error(muster):
    with muster.group("leaves", rank=0, world_size=1) as group:
        group.leave()
    with pytest.raises(muster.GroupClosed):
        group.subgroup([0])

    def fail():
        with muster.group("leaves", rank=0, world_size=1) as group:
            group.leave()
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def test_what_can_never_fit_is_out_of_memory_at_once():
    daemon = Daemon("--memory", "64MiB")
    try:
        run_ranks(daemon, _ask_for_too_much, 1)
    finally:
        daemon.stop()


def _ask_for_too_much(_rank):
    # A wait this long would make the test fail.
    with pytest.raises(muster.OutOfMemory, match="in all"):
        muster.empty(1 << 30, timeout=3600)
    refs = [muster.put(np.zeros(1 << 20, np.uint8))] * 100
    with pytest.raises(muster.OutOfMemory, match="in all"):
        muster.allgather_refs(refs, stack=True, timeout=3600).result()
