"""Measures how fairly processes share a store that is too small for them, and how much they slow a small op.

    PATH=build/release/bin:$PATH PYTHONPATH=build/release/python python bench/shares.py [CREATORS [MIB_EACH]]

Each creator puts an array and frees it, as fast as it can, in a store that has room for a quarter of them at once.
Prints how many arrays the luckiest and the unluckiest creator made (the goal is a ratio of at most 2), how late errors
came for a creator with a deadline of 100 ms, and the time of a bystander's 1 KiB allreduce.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import time

TESTS = pathlib.Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / folder) for folder in ("chaos", "python", "cli")]

import numpy as np  # noqa: E402
from chaos_harness import WARM  # noqa: E402

from daemon import Daemon, ranks  # noqa: E402

MIB = 1 << 20
MEASURED_S = 10.0


def create(_rank: int, mib: int, begin, stop) -> int:
    import muster

    value = np.ones(mib * MIB, np.uint8)
    muster.init()
    begin.wait()
    made = 0
    while not stop.is_set():
        muster.put(value, timeout=60).free()
        made += 1
    return made


def hurry(_rank: int, mib: int, begin, stop) -> list[float]:
    """Returns by how many seconds each error came after its deadline."""
    import muster

    value = np.ones(4 * mib * MIB, np.uint8)
    muster.init()
    begin.wait()
    late = []
    while not stop.is_set():
        asked = time.perf_counter()
        try:
            muster.put(value, timeout=0.1).free()
        except muster.OutOfMemory:
            late.append(time.perf_counter() - asked - 0.1)
    return late


def bystand(_rank: int, _mib: int, begin, stop) -> list[float]:
    import muster

    value = np.ones(256, np.float32)
    muster.init()
    begin.wait()
    times = []
    while not stop.is_set():
        began = time.perf_counter()
        muster.allreduce_refs([muster.put(value), muster.put(value)]).result()
        times.append(time.perf_counter() - began)
        time.sleep(0.001)
    return times


def play(rank: int, roles: list, mib: int, begin, stop) -> int | list[float]:
    return roles[rank](rank, mib, begin, stop)


def line(name: str, seconds: list[float]) -> str:
    if not seconds:
        return f"{name}: none"
    ms = sorted(1000 * each for each in seconds)
    return (
        f"{name}: {len(ms)}, median {statistics.median(ms):.2f} ms, p99 {ms[int(0.99 * (len(ms) - 1))]:.1f} ms, "
        f"longest {ms[-1]:.1f} ms"
    )


def main(creators: int = 64, mib: int = 8) -> None:
    daemon = Daemon("--memory", f"{creators * mib // 4 + creators}MiB")
    roles = [create] * creators + [hurry, bystand]
    begin, stop = WARM.Event(), WARM.Event()
    try:
        with ranks(daemon, play, len(roles), roles, mib, begin, stop, context=WARM) as (_, results):
            time.sleep(2 + creators / 16)  # waits until all have started
            begin.set()
            time.sleep(MEASURED_S)
            stop.set()
            told = [results.get(timeout=120) for _ in roles]
    finally:
        daemon.stop()
    failed = [value for _, good, value in told if not good]
    if failed:
        sys.exit(failed[0])
    values = {rank: value for rank, _, value in told}
    made = sorted(values[rank] for rank in range(creators))
    print(f"{creators} creators of {mib} MiB: {sum(made)} made, the luckiest {made[-1]}, the unluckiest {made[0]}")
    print(line("errors after a deadline of 100 ms came late by", values[creators]))
    print(line("a bystander's 1 KiB allreduce", values[creators + 1]))


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:]))
