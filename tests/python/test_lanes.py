"""Processes share the lanes fairly, whatever each of them queues."""

from __future__ import annotations

import muster
import numpy as np

from daemon import SPAWN, run_ranks

QUEUED = 20
BYTES = 32 << 20


def _behind_many(rank: int, waiting) -> list[str]:
    """Rank 1 queues large reductions of its own. Then it completes a reduction of the group that is as large."""
    with muster.group("lanes", rank=rank, world_size=2, timeout=60) as group:
        value = muster.put(np.ones(BYTES, np.uint8))
        half = muster.put(np.ones(BYTES // 2, np.uint8))
        if rank == 0:
            # The op takes the turns of the lowest rank, which is this process.
            work = group.allreduce(value)
            waiting.set()
            work.result()
            return []
        assert waiting.wait(60)
        over: list[str] = []
        works = []
        for number in range(QUEUED + 1):
            name = "own" if number < QUEUED else "the group's"
            work = muster.allreduce_refs([half, half]) if number < QUEUED else group.allreduce(value)
            work.add_done_callback(lambda _, name=name: over.append(name))
            works.append(work)
        for work in works:
            work.result()
        return over


def test_an_op_is_not_stuck_behind_what_another_process_has_queued(own_daemon):
    _, over = run_ranks(own_daemon, _behind_many, 2, SPAWN.Event())
    assert len(over) == QUEUED + 1
    # The op is over when the other process has had as many bytes: those of two ops, and of those that ended before it
    # began.
    assert over.index("the group's") < QUEUED / 2
