"""Runs many asyncio tasks that make arrays and await ops; some are late, and some stop waiting.

Start it:  python python/examples/tasks.py

It shows three things. ``@muster.collective_input`` works on ``async`` functions, whatever the order of their steps.
``await work`` waits for an op without blocking the loop. If a task stops waiting because of a cancellation or a timeout
of asyncio, the op goes on for the others, and its result can be awaited again.
"""

from __future__ import annotations

import asyncio
import sys

import muster
import numpy as np

RANKS, STEPS = 4, 25


@muster.collective_input
async def forecast(rank: int, step: int) -> np.ndarray:
    """Makes a rank's values of one step in two parts. Other tasks run in between."""
    values = np.arange(1000.0) * (rank + 1)
    await asyncio.sleep(0)
    values += step
    return values


def expected(step: int) -> np.ndarray:
    return np.sum([np.arange(1000.0) * (rank + 1) + step for rank in range(RANKS)], axis=0)


async def contribute(group: muster.Group, step: int) -> np.ndarray:
    """Uses a key, so that ops match in whatever order the tasks of each rank run."""
    return await group.allreduce(await forecast(group.rank, step), key=f"step {step}")


async def many(groups: list[muster.Group]) -> bool:
    """Runs all steps of all ranks at once."""
    calls = [contribute(group, step) for group in groups for step in range(STEPS)]
    sums = await asyncio.gather(*calls)
    return all(np.array_equal(found, expected(number % STEPS)) for number, found in enumerate(sums))


async def impatient(groups: list[muster.Group]) -> str:
    """The first rank waits 10 ms and gives up; only then do the others call. Then it waits as long as it takes."""
    work = groups[0].allreduce(await forecast(0, 0))
    try:
        await asyncio.wait_for(work, 0.01)
    except (asyncio.TimeoutError, TimeoutError):
        others = [group.allreduce(await forecast(group.rank, 0)) for group in groups[1:]]
        sums = await asyncio.gather(work, *others)
        return "awaited again" if all(np.array_equal(found, expected(0)) for found in sums) else "WRONG"
    return "TOO EARLY"


async def cancelled(groups: list[muster.Group]) -> str:
    """A task that waits is cancelled; the op that it started completes for the other ranks."""

    async def wait(work: muster.Work) -> np.ndarray:
        return await work

    task = asyncio.create_task(wait(groups[0].allreduce(await forecast(0, 1))))
    await asyncio.sleep(0)  # now it waits
    task.cancel()
    others = [group.allreduce(await forecast(group.rank, 1)) for group in groups[1:]]
    sums = await asyncio.gather(*others)
    good = task.cancelled() and all(np.array_equal(found, expected(1)) for found in sums)
    return "completed for the others" if good else "WRONG"


async def too_late(groups: list[muster.Group]) -> str:
    """The deadline of an op itself is different: it ends the op on all ranks, and names the missing rank."""
    present = groups[:-1]
    works = [group.allreduce(await forecast(group.rank, 2), timeout=0.2) for group in present]
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    if not all(isinstance(outcome, muster.Timeout) for outcome in outcomes):
        return "WRONG"
    return f"missing rank {outcomes[0].ranks[0]}"


async def run() -> bool:
    groups = [muster.group("tasks", rank=rank, world_size=RANKS) for rank in range(RANKS)]
    try:
        good = await many(groups)
        print(f"{RANKS * STEPS} tasks: {'all sums right' if good else 'WRONG'}")
        outcomes = [await impatient(groups), await cancelled(groups), await too_late(groups)]
        print(f"timeout of asyncio: {outcomes[0]}\ncancelled: {outcomes[1]}\ntimeout of the op: {outcomes[2]}")
    finally:
        for group in groups:
            group.leave()
    return good and outcomes == ["awaited again", "completed for the others", f"missing rank {RANKS - 1}"]


def main() -> int:
    muster.init()
    return 0 if asyncio.run(run()) else 1


if __name__ == "__main__":
    sys.exit(main())
