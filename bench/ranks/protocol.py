"""What all Python ranks of the suite have in common; the counterpart of protocol.hpp."""

from __future__ import annotations

import os
import resource
import socket
import time
from typing import Protocol

import numpy as np

PAGE = 1024  # float32 elements


class Rank(Protocol):
    """One rank of a system under test. A round is prepare(), two barriers so that all ranks are here and awake, run()
    while the clock runs, a barrier so that ranks that are done take no core from the others, and check()."""

    def barrier(self) -> None:
        """Waits for all ranks, with the system's own barrier."""

    def prepare(self, op: str, variant: str, count: int, seed: int) -> None:
        """Writes fresh values into the input of ``count`` float32 elements."""

    def run(self, op: str, variant: str) -> None:
        """Runs the op until its result can be read."""

    def check(self, op: str, variant: str, seed: int) -> bool:
        """Checks the result on every page."""


def _base(rank: int, seed: int) -> int:
    return (rank + 1) * (seed % 5 + 1)


def fill(values: np.ndarray, rank: int, seed: int) -> None:
    """Gives each page's first element its own value; all other elements are equal."""
    values[...] = _base(rank, seed)
    pages = values[::PAGE]
    pages += (np.arange(len(pages)) % 16).astype(np.float32)


def is_filled(values: np.ndarray, rank: int, seed: int) -> bool:
    return _is_sum_of(values, [rank], seed)


def is_sum(values: np.ndarray, ranks: int, seed: int) -> bool:
    return _is_sum_of(values, range(ranks), seed)


def _is_sum_of(values: np.ndarray, ranks, seed: int) -> bool:
    total = sum(_base(rank, seed) for rank in ranks)
    pages = values[::PAGE]
    expected = total + len(ranks) * (np.arange(len(pages)) % 16)
    return bool(np.array_equal(pages, expected) and (values[1::PAGE] == total).all())


def read_of_sum(count: int, ranks: int, seed: int) -> tuple[float, float]:
    """What a reader says of the sum of all ranks' arrays: the sum of the pages' first elements, and another element."""
    total = np.zeros(count, np.float32)
    part = np.empty(count, np.float32)
    for rank in range(ranks):
        fill(part, rank, seed)
        total += part
    return float(total[::PAGE].sum()), float(total[1])


def _cpu_us() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


def obey(system: str, number: int, rank: Rank) -> None:
    """Runs rounds as the coordinator orders them, until it says quit."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["BENCH_SOCKET"])
        stream = connection.makefile("rw")
        print("hello", system, number, os.getpid(), file=stream, flush=True)
        for line in stream:
            verb, *words = line.split()
            if verb != "run":
                break
            op, variant, count, rounds, first_seed = words[0], words[1], int(words[2]), int(words[3]), int(words[4])
            times, cpu_us, right = [], 0.0, True
            for seed in range(first_seed, first_seed + rounds):
                rank.prepare(op, variant, count, seed)
                rank.barrier()  # all ranks have arrived, late ones included
                rank.barrier()  # all ranks are awake, even those that fell asleep meanwhile
                cpu_begin_us, begin = _cpu_us(), time.perf_counter()
                rank.run(op, variant)
                times.append((time.perf_counter() - begin) * 1e6)
                cpu_us += _cpu_us() - cpu_begin_us
                rank.barrier()
                right = rank.check(op, variant, seed) and right
            print("times" if right else "wrong", cpu_us, *times, file=stream, flush=True)
