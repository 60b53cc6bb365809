"""After a warm-up, nothing is mapped, unmapped or faulted in any more, according to the kernel's counters."""

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
    """Returns the minor and major page faults of all threads of a process."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7]) + int(fields[9])


def _work(rank, meet, counts, over, daemon_pid):
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
    # The daemon populates its first segments in the background; until that is done, nothing is in steady state.
    for _ in range(200):
        before = faults(daemon_pid)
        for step in range(WARM):
            call(step)
        # A plain number: a result that is kept would take the region of the next call's.
        settled = bool(group.allreduce(int(faults(daemon_pid) == before), op="min").result())
        if settled:
            break
    while not over.value:
        meet.wait(60)
        before, daemon_before = faults("self"), faults(daemon_pid)
        for step in range(CALLS):
            call(step)
        counts[2 * rank], counts[2 * rank + 1] = faults("self") - before, faults(daemon_pid) - daemon_before
        meet.wait(60)
        meet.wait(60)  # all ranks know by now whether it was steady


def trace(pid: int, log: pathlib.Path) -> subprocess.Popen:
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-e", "trace=mmap,munmap,mremap,brk,madvise,fallocate", "-o", str(log), "-p", str(pid)]
    )
    while f"TracerPid:\t{tracer.pid}" not in pathlib.Path(f"/proc/{pid}/status").read_text():
        assert tracer.poll() is None
        time.sleep(0)
    return tracer


def is_untouched(calls: dict[int, str], daemon_pid: int, rank_pid: int) -> bool:
    """Whether no shared memory was mapped, and the daemon mapped nothing. The interpreter may map its own arenas."""

    def count(pid: int) -> int:
        return calls[pid].count("mmap(") + calls[pid].count("munmap(")

    return "MAP_SHARED" not in "".join(calls.values()) and count(daemon_pid) == 0 and count(rank_pid) <= 4


def is_faultless(counts) -> bool:
    """The kernel counts whole processes: in a thousand calls the interpreter may need a handful of pages."""
    own, daemons = counts[::2], counts[1::2]
    return max(own) <= FAULTS_MAX and max(daemons) <= DAEMON_FAULTS_MAX


@pytest.mark.parametrize("traced", [False, True])
def test_steady_state_maps_and_faults_nothing(own_daemon, tmp_path, traced):
    assert shutil.which("strace"), "strace is needed to see system calls"
    meet, counts, over = SPAWN.Barrier(3), SPAWN.Array("q", 4), SPAWN.Value("b", 0)
    seen = []
    with ranks(own_daemon, _work, 2, meet, counts, over, own_daemon.pid) as (processes, results):
        # Sometimes the ranks run in another rhythm, which needs one more region than before. Then that region is made
        # and touched for the first time, and from then on it is there.
        while not over.value:
            traced_pids = [own_daemon.pid, processes[0].pid] if traced else []
            tracers = [trace(pid, tmp_path / str(pid)) for pid in traced_pids]
            meet.wait(60)
            meet.wait(60)
            for tracer in tracers:
                tracer.terminate()
                tracer.wait()
            if traced:
                seen.append({pid: (tmp_path / str(pid)).read_text() for pid in traced_pids})
                steady = is_untouched(seen[-1], own_daemon.pid, processes[0].pid)
            else:
                seen.append(list(counts))
                steady = is_faultless(counts)
            over.value = steady or len(seen) == ROUNDS
            meet.wait(60)
        for _ in range(2):
            _, good, value = results.get(timeout=60)
            assert good, value
    assert steady, seen
