"""What every Python rank of the suite does alike; the counterpart of protocol.hpp."""

from __future__ import annotations

import os
import resource
import socket
import time

import numpy as np

PAGE = 1024  # float32 elements


def _base(rank: int, seed: int) -> int:
    return (rank + 1) * (seed % 5 + 1)


def fill(values: np.ndarray, rank: int, seed: int) -> None:
    """Each page's first element has a value of its own, the others are the same."""
    values[...] = _base(rank, seed)
    pages = values[::PAGE]
    pages += (np.arange(len(pages)) % 16).astype(np.float32)


def is_sum(values: np.ndarray, ranks: int, seed: int) -> bool:
    total = sum(_base(rank, seed) for rank in range(ranks))
    pages = values[::PAGE]
    expected = total + ranks * (np.arange(len(pages)) % 16)
    return bool(np.array_equal(pages, expected) and (values[1::PAGE] == total).all())


def _cpu_us() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


class Clock:
    def begin(self) -> None:
        self.cpu_us = _cpu_us()
        self.time_us = time.perf_counter()

    def end(self) -> None:
        self.time_us = (time.perf_counter() - self.time_us) * 1e6
        self.cpu_us = _cpu_us() - self.cpu_us


def obey(system: str, rank: int, run_round) -> None:
    """Runs ``run_round(op, variant, count, seed, clock) -> bool`` as often as the coordinator asks for."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["BENCH_SOCKET"])
        stream = connection.makefile("rw")
        print("hello", system, rank, os.getpid(), file=stream, flush=True)
        for line in stream:
            verb, *words = line.split()
            if verb != "run":
                break
            op, variant, count, rounds, seed = words[0], words[1], int(words[2]), int(words[3]), int(words[4])
            times, cpu_us, right = [], 0.0, True
            for index in range(rounds):
                clock = Clock()
                right = run_round(op, variant, count, seed + index, clock) and right
                times.append(clock.time_us)
                cpu_us += clock.cpu_us
            print("times" if right else "wrong", cpu_us, *times, file=stream, flush=True)
