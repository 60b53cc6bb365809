"""Kills and stops a rank at every failpoint: the others go on or get an error, and nothing of the rank is left."""

from __future__ import annotations

import os
import pathlib
import pickle
import re
import signal

import numpy as np
import pytest
from chaos_harness import (
    PATIENCE_S,
    WARM,
    eventually,
    is_stopped,
    serves_newcomers,
    wait_empty,
    wait_forgotten,
)

from daemon import Daemon, ranks

HEADER = pathlib.Path(__file__).parents[2] / "include/muster/ipc/failpoint.hpp"
FAILPOINTS = re.findall(r"^ {2}X\((\w+)\)", HEADER.read_text(), re.MULTILINE)

VICTIM = 2
WORLD_SIZE = 3
# Before a rank has its seat, nobody can know that it is lost, only that it is late.
BEFORE_ITS_SEAT = {"connected", "joining"}


def _is_to_come_by(failpoint: str) -> bool:
    """Whether this rank has yet to hit it: on a busy machine a short wait may end before the rank goes to sleep."""
    log = pathlib.Path(os.environ["MUSTER_FAILPOINT_LOG"])
    return failpoint in os.environ["MUSTER_FAILPOINT"] and not (log.exists() and failpoint in log.read_text().split())


def _program(rank: int):
    """Every rank's program, which passes every failpoint. Yields works and gets their values."""
    import muster

    group = muster.group("job", rank=rank, world_size=WORLD_SIZE, timeout=PATIENCE_S)
    gradient = muster.put(np.full(1 << 18, rank + 1, np.float32))
    assert ((yield group, group.allreduce(gradient)) == 6).all()

    # The victim waits for something that surely has not come yet.
    late = group.barrier(key="late") if rank == VICTIM else None
    while late is not None:
        with pytest.raises(muster.Timeout):
            late.result(timeout=0.01)
        if not _is_to_come_by("waiting"):
            break
    yield group, group.barrier()
    yield group, group.barrier(key="late") if late is None else late

    kept = muster.put(np.full(1 << 16, rank))
    pickled = np.frombuffer(pickle.dumps(kept), np.uint8)
    received = yield group, group.broadcast(pickled if rank == 0 else None, root=0)
    other = pickle.loads(received.tobytes())
    assert (other.get() == 0).all()

    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    yield group, group.barrier()
    del kept, other, gradient
    group.leave()


class Signals:
    """Signals between the test and the survivors; the victim only waits for `begin`."""

    def __init__(self) -> None:
        self.seated = WARM.Barrier(WORLD_SIZE)  # for the survivors and the test: both survivors have their seats
        self.begin = WARM.Event()  # for the victim
        self.halted = WARM.Event()  # the victim has stopped for now
        self.blocked = WARM.SimpleQueue()  # the survivors that noticed
        self.decided = WARM.Event()  # the victim is dead and the daemon knows it, or it goes on
        self.over = WARM.Barrier(WORLD_SIZE - 1)  # for the survivors: both know how it ended


def _wait(work, signals: Signals):
    """Returns how the work ended: "blocked" if it waits for a halted victim; a dead one can't come any more."""
    import muster

    while True:
        # Reads the flags before waiting, so that a Timeout comes from the time after them.
        decided, halted = signals.decided.is_set(), signals.halted.is_set()
        try:
            return "value", work.result(timeout=0.02)
        except muster.PeerLost as error:
            return "PeerLost", error.ranks
        except muster.Timeout as error:
            if halted and error.ranks == [VICTIM]:
                return "Timeout" if decided else "blocked", error.ranks


def _survive(rank: int, signals: Signals):
    """Runs the program to its end or first error; returns how far it came, how it ended, and how the probe ended."""
    import muster

    program = _program(rank)
    value, probe, how = None, None, "value"
    for step in range(100):
        try:
            group, work = program.send(value)
        except StopIteration:
            how, value = "done", None
            break
        if step == 0:
            signals.seated.wait(PATIENCE_S)
        how, value = _wait(work, signals)
        if how == "blocked":
            # An op with its own deadline ends at it, while another op goes on waiting.
            with pytest.raises(muster.Timeout) as error:
                group.barrier(key="probe", timeout=0.1).result()
            probe = error.value.ranks
            signals.blocked.put(rank)
            assert signals.decided.wait(PATIENCE_S)
            how, value = _wait(work, signals)
        if how != "value":
            break
    # Keeps its seat until then: if everybody left the group, a late rank would join a new one.
    signals.over.wait(PATIENCE_S)
    return step, how, value, probe


def _run(rank: int, signals: Signals):
    if rank != VICTIM:
        return _survive(rank, signals)
    assert signals.begin.wait(PATIENCE_S)
    program, value = _program(rank), None
    while True:
        try:
            _, work = program.send(value)
        except StopIteration:
            return "done"
        value = work.result()


class Job:
    """Three ranks. One of them, the victim, has a failpoint and begins when the others have their seats."""

    def __init__(self, daemon: Daemon, log: pathlib.Path, plan: str) -> None:
        self.log = log
        self.signals = Signals()
        environments = {VICTIM: {"MUSTER_FAILPOINT": plan, "MUSTER_FAILPOINT_LOG": str(log)}}
        self.ranks = ranks(daemon, _run, WORLD_SIZE, self.signals, context=WARM, environments=environments)

    def __enter__(self):
        processes, self.results = self.ranks.__enter__()
        self.victim = processes[VICTIM]
        self.signals.seated.wait(PATIENCE_S)
        self.signals.begin.set()
        return self

    def __exit__(self, *error):
        return self.ranks.__exit__(*error)

    def was_hit(self, failpoint: str) -> bool:
        return self.log.exists() and failpoint in self.log.read_text().split()

    def wait_stopped(self, failpoint: str) -> None:
        """Returns when the victim has stopped, and either both survivors are done or one of them waits for it."""
        eventually(lambda: is_stopped(self.victim.pid) or not self.victim.is_alive())
        assert self.was_hit(failpoint)
        assert self.victim.is_alive()
        self.signals.halted.set()
        eventually(lambda: not self.signals.blocked.empty() or not self.results.empty())

    def outcomes(self, count: int) -> dict[int, object]:
        found = {}
        for _ in range(count):
            rank, good, value = self.results.get(timeout=PATIENCE_S)
            assert good, f"rank {rank}: {value}"
            found[rank] = value
        return found

    def survivors_end_well(self, failpoint: str) -> None:
        """The victim is dead and the daemon knows it: all ops were done, or both survivors got the same error."""
        self.signals.decided.set()
        self.signals.halted.set()
        (*first, first_probe), (*second, second_probe) = self.outcomes(2).values()
        assert first == second
        _, how, lost = first
        assert how in ("done", "PeerLost", "Timeout")
        assert how == "done" or lost == [VICTIM]
        assert how != "Timeout" or failpoint in BEFORE_ITS_SEAT
        for probe in (first_probe, second_probe):
            assert probe is None or VICTIM in probe


def leaves_nothing(daemon: Daemon) -> None:
    wait_empty(daemon)
    serves_newcomers(daemon)
    wait_empty(daemon)


def test_the_list_of_failpoints_was_found():
    assert len(FAILPOINTS) >= 16
    assert set(FAILPOINTS) > BEFORE_ITS_SEAT


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_rank_killed_at(failpoint, daemon, tmp_path):
    with Job(daemon, tmp_path / "hits", f"{failpoint}=kill") as job:
        job.victim.join(PATIENCE_S)
        assert job.was_hit(failpoint)
        assert job.victim.exitcode == -signal.SIGKILL
        wait_forgotten(daemon, job.victim.pid)
        job.survivors_end_well(failpoint)
    leaves_nothing(daemon)


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_rank_stopped_at_and_then_killed(failpoint, daemon, tmp_path):
    with Job(daemon, tmp_path / "hits", f"{failpoint}=stop") as job:
        job.wait_stopped(failpoint)
        os.kill(job.victim.pid, signal.SIGKILL)
        job.victim.join(PATIENCE_S)
        wait_forgotten(daemon, job.victim.pid)
        job.survivors_end_well(failpoint)
    leaves_nothing(daemon)


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_rank_stopped_at_and_then_continued(failpoint, daemon, tmp_path):
    with Job(daemon, tmp_path / "hits", f"{failpoint}=stop") as job:
        job.wait_stopped(failpoint)
        # The others go on as if nothing had happened.
        job.signals.halted.clear()
        os.kill(job.victim.pid, signal.SIGCONT)
        job.signals.decided.set()
        outcomes = job.outcomes(WORLD_SIZE)
        assert outcomes.pop(VICTIM) == "done"
        assert [how for _, how, _, _ in outcomes.values()] == ["done", "done"]
    leaves_nothing(daemon)
