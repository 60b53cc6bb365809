"""Measures the round trip of 1 KiB between two ranks beside busy processes, and that through a pipe.

    PATH=build/release/bin:$PATH PYTHONPATH=build/release/python python bench/busy.py [--busy N] [--rounds N]

By default there is one busy process for each core, like a compiler or another job. Prints the median, the 90th and 99th
percentile and the longest round trip of an allreduce of two ranks, and of 1 KiB through a pipe and back. The goal is a
90th percentile within twice the pipe's.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

TESTS = pathlib.Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / folder) for folder in ("python",)]

import numpy as np  # noqa: E402

from daemon import SPAWN, Daemon, ranks  # noqa: E402

WARM_UP = 100


def _burn() -> None:
    while True:
        pass


def _times(round_trip: Callable[[], Any], rounds: int) -> list[float]:
    times = []
    for _ in range(WARM_UP + rounds):
        begin = time.perf_counter()
        round_trip()
        times.append(time.perf_counter() - begin)
    return times[WARM_UP:]


def _reduce(rank: int, rounds: int) -> list[float]:
    import muster

    group = muster.group("busy", rank=rank, world_size=2, timeout=300)
    ref = muster.put(np.ones(256, np.float32))
    return _times(lambda: group.allreduce(ref).result(), rounds)


def _answer(pipe: Connection) -> None:
    while message := pipe.recv_bytes():
        pipe.send_bytes(message)


def through_a_pipe(rounds: int) -> list[float]:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_answer, args=(theirs,))
    process.start()

    def round_trip() -> None:
        ours.send_bytes(b"x" * 1024)
        ours.recv_bytes()

    times = _times(round_trip, rounds)
    ours.send_bytes(b"")
    process.join()
    return times


def through_muster(rounds: int) -> list[float]:
    daemon = Daemon("--memory", "256MiB")
    try:
        with ranks(daemon, _reduce, 2, rounds) as (_, results):
            found = {rank: times for rank, good, times in (results.get(), results.get()) if good}
        return found[0]
    finally:
        daemon.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="busy processes")
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    busy = [SPAWN.Process(target=_burn, daemon=True) for _ in range(options.busy)]
    for process in busy:
        process.start()
    print("| 1 KiB and back | median | p90 | p99 | longest |\n| --- | --- | --- | --- | --- |")
    for name, measure in (("pipe", through_a_pipe), ("allreduce, 2 ranks", through_muster)) * 2:
        times = np.array(measure(options.rounds)) * 1e6
        figures = [*np.percentile(times, [50, 90, 99]), times.max()]
        print(f"| {name} | " + " | ".join(f"{figure:.0f} us" for figure in figures) + " |", flush=True)
    for process in busy:
        process.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
