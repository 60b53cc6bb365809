"""After a warm-up, nothing is mapped, unmapped or faulted in any more: counted by the kernel, not by us."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import time

import muster
import numpy as np
import pytest

from daemon import SPAWN, ranks

WARM, CALLS = 100, 1000
ROUNDS = 5
FAULTS_MAX, DAEMON_FAULTS_MAX = CALLS // 20, CALLS // 200


def faults(pid: int | str) -> int:
    """Minor and major page faults of all threads of a process."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7]) + int(fields[9])


def _work(rank, warm, go, done, checked, daemon_pid):
    group = muster.group("steady", rank=rank, world_size=2)

    @muster.collective_input
    def gradient(step):
        return {"w": np.full((256, 256), step, np.float32), "b": np.full(10, step, np.float32)}

    def call(step):
        result = group.allreduce(gradient(step)).result()
        assert result["w"][0, 0] == 2 * step
        assert result["b"][9] == 2 * step

    for step in range(WARM):
        call(step)
    # The daemon populates its first segments in the background; while it does, nobody is in steady state.
    for _ in range(200):
        before = faults(daemon_pid)
        for step in range(WARM):
            call(step)
        # A number, as a result that is held would lie where the next call's is to be.
        settled = bool(group.allreduce(int(faults(daemon_pid) == before), op="min").result())
        if settled:
            break
    warm.wait(60)
    assert go.wait(60)
    # Once in a while the ranks run in another rhythm, which takes one more region than ever before: then it is touched
    # for the first time, and from then on it is there.
    for _ in range(ROUNDS):
        before, daemon_before = faults("self"), faults(daemon_pid)
        for step in range(CALLS):
            call(step)
        own, daemons = faults("self") - before, faults(daemon_pid) - daemon_before
        steady = own <= FAULTS_MAX and daemons <= DAEMON_FAULTS_MAX
        if group.allreduce(int(steady), op="min").result():
            break
    done.wait(60)
    assert checked.wait(60)
    return own, daemons


def trace(pid: int, log: pathlib.Path) -> subprocess.Popen:
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-e", "trace=mmap,munmap,mremap,brk,madvise,fallocate", "-o", str(log), "-p", str(pid)]
    )
    while f"TracerPid:\t{tracer.pid}" not in pathlib.Path(f"/proc/{pid}/status").read_text():
        assert tracer.poll() is None
        time.sleep(0)
    return tracer


@pytest.mark.parametrize("traced", [False, True])
def test_steady_state_maps_and_faults_nothing(own_daemon, tmp_path, traced):
    assert shutil.which("strace"), "strace is needed to see system calls"
    warm, done = SPAWN.Barrier(3), SPAWN.Barrier(3)
    go, checked = SPAWN.Event(), SPAWN.Event()
    with ranks(own_daemon, _work, 2, warm, go, done, checked, own_daemon.pid) as (processes, results):
        warm.wait(60)
        traced_pids = [own_daemon.pid, processes[0].pid] if traced else []
        tracers = [trace(pid, tmp_path / str(pid)) for pid in traced_pids]
        go.set()
        done.wait(60)
        for tracer in tracers:
            tracer.terminate()
            tracer.wait()
        checked.set()
        counts = []
        for _ in range(2):
            _, good, value = results.get(timeout=60)
            assert good, value
            counts.append(value)
    if traced:
        # The interpreter itself may map an arena for its own objects now and then. In another rhythm of the ranks one
        # segment more is needed for a while, and then it is given back: of a thousand calls that is a handful.
        calls = {pid: (tmp_path / str(pid)).read_text() for pid in traced_pids}
        for text in calls.values():
            assert text.count("mmap(") + text.count("munmap(") <= 8
        return
    # The kernel's books are of whole processes: a thousand calls may cost the interpreter a handful of pages.
    for own, daemons in counts:
        assert own <= FAULTS_MAX, counts
        assert daemons <= DAEMON_FAULTS_MAX, counts
