"""Measures the longest allreduce of a bystander while one client attacks the daemon.

    PATH=build/release/bin:$PATH PYTHONPATH=build/release/python python bench/bystander.py [--bytes N] [ATTACK...]

Prints one line for each attack: how many ops the bystanders did, and their median, 99th percentile and longest time.
The goal is 20 ms for the longest 1 KiB op on a quiet machine. A machine with other work shows that work, too, so
compare with the line `nothing`. Ops of 1 MiB (`--bytes 1048576`) and more run on the lanes, which all clients share.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import mmap
import os
import pathlib
import statistics
import struct
import sys
import threading
import time
from collections.abc import Sequence

TESTS = pathlib.Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / folder) for folder in ("chaos", "python", "cli")]

import numpy as np  # noqa: E402
from chaos_harness import WARM  # noqa: E402
from raw_client import (  # noqa: E402
    ALLREDUCE,
    BARRIER,
    COMBINE,
    CONTRIBUTE,
    CUT_OFF,
    FLOAT32,
    SEAL,
    Ended,
    RawClient,
    combine,
    contribute,
    manifest,
    seal,
)

from daemon import Daemon, ranks  # noqa: E402

ATTACK_S = 4.0
SCAN = 3


def _bystand(rank: int, bytes: int, stop, times) -> int:
    import muster

    value = np.ones(bytes // 4, np.float32)
    took = []
    with muster.group("bystanders", rank=rank, world_size=2, timeout=60) as group:
        while True:
            begin = time.perf_counter()
            # The flag is reduced, too, so both ranks end at the same step.
            value[0] = stop.is_set()
            result = group.allreduce(value).result()
            took.append(time.perf_counter() - begin)
            if result[0] > 0:
                break
    if rank == 0:
        for each in took:
            times.put(each)
        times.put(None)
    return len(took)


def nothing(daemon: Daemon) -> None:
    time.sleep(ATTACK_S)


def _flood(daemon: Daemon, connections: int, body: str, **values) -> None:
    """Sends requests, and reads only as many replies as needed to send more."""
    until = time.monotonic() + ATTACK_S

    def ask() -> None:
        with RawClient(daemon) as client, contextlib.suppress(Ended, *CUT_OFF):
            while time.monotonic() < until:
                for _ in range(64):
                    client.send(body, **values)
                for _ in range(64):
                    client.name_of_next()

    threads = [threading.Thread(target=ask) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def status_flood(daemon: Daemon) -> None:
    _flood(daemon, 1, "StatusQuery")


def status_flood_of_16(daemon: Daemon) -> None:
    _flood(daemon, 16, "StatusQuery")


def _with_objects(daemon: Daemon, count: int) -> RawClient:
    client = RawClient(daemon)
    segment = client.lease(1 << 16)
    described = manifest(segment, 0, [16])
    for number in range(1, count + 1):
        client.submit(SEAL, seal(client.object_id(number), described))
        if number % 1000 == 0:
            client.survives()
    return client


def lists_of_many_objects(daemon: Daemon) -> None:
    with _with_objects(daemon, 50_000):
        _flood(daemon, 1, "ObjectsQuery", limit=0)


def death_with_many_objects(daemon: Daemon) -> None:
    _with_objects(daemon, 100_000).close()
    time.sleep(0.5)


def missing_queries(daemon: Daemon) -> None:
    until = time.monotonic() + ATTACK_S
    with RawClient(daemon) as client:
        seats = [client.join(f"own {i}", 0, 2).seat for i in range(6)]
        for seat in seats:
            for _ in range(2000):
                client.submit(CONTRIBUTE, contribute(1, seat, kind=BARRIER, timeout_ns=60 * 10**9))
            client.survives()
        while time.monotonic() < until:
            client.send("MissingQuery", work=1)
            client.name_of_next()


def _spin(stop) -> None:
    while not stop.is_set():
        pass


def a_busy_process_for_each_core(daemon: Daemon) -> None:
    """Not an attack: shows what the scheduler does to the bystanders when others work."""
    stop = WARM.Event()
    spinning = [WARM.Process(target=_spin, args=(stop,)) for _ in range(os.cpu_count() or 1)]
    for process in spinning:
        process.start()
    time.sleep(ATTACK_S)
    stop.set()
    for process in spinning:
        process.join()


def _reduce_large_arrays(stop) -> None:
    import muster

    values = [muster.put(np.ones(8 << 20, np.float32)) for _ in range(4)]
    works: collections.deque[muster.Work] = collections.deque()
    while not stop.is_set():
        while len(works) < 16:
            works.append(muster.allreduce_refs(values))
        works.popleft().wait()


def sixteen_large_reductions(daemon: Daemon) -> None:
    """Keeps that many large reductions of one client in the queue all the time."""
    os.environ["MUSTER_SOCKET"] = daemon.socket
    stop = WARM.Event()
    process = WARM.Process(target=_reduce_large_arrays, args=(stop,))
    process.start()
    time.sleep(ATTACK_S)
    stop.set()
    process.join()


def _many_arrays(segment: int, count: int, dtypes: Sequence[int] = ()) -> bytes:
    """Returns the manifest of `count` arrays of one element; the last ones have these dtypes."""
    head = struct.pack("<IIIIII", count, count, 0, 0, 0, 0)
    kinds = [FLOAT32] * (count - len(dtypes)) + list(dtypes)
    leaves = b"".join(struct.pack("<QIBBH", 0, segment, kind, 1, 0) for kind in kinds)
    return head + leaves + struct.pack("<q", 1) * count


def combines_that_disagree(daemon: Daemon) -> None:
    """Fills rings with ops that take longest to check and then fail: only the last of many arrays differs."""
    until = time.monotonic() + ATTACK_S
    with RawClient(daemon) as client:
        segment = client.lease(1 << 16)
        same, other = client.object_id(1), client.object_id(2)
        client.submit_in_parts(SEAL, seal(same, _many_arrays(segment, 1 << 16)))
        client.submit_in_parts(SEAL, seal(other, _many_arrays(segment, 1 << 16, [FLOAT32 + 1])))
        while time.monotonic() < until:
            for work in range(1, 1000):
                client.submit(COMBINE, combine(work, ALLREDUCE, 2, [same, other]))
            assert client.survives()
            while client.completion() is not None:
                pass


def scans_that_fill_the_store(daemon: Daemon) -> None:
    """Keeps the results, so the bystanders wait for memory."""
    with RawClient(daemon) as client:
        segment = client.lease(1 << 16)
        client.submit(SEAL, seal(client.object_id(1), _many_arrays(segment, 64)))
        until = time.monotonic() + ATTACK_S
        while time.monotonic() < until:
            for work in range(1, 20):
                client.submit(COMBINE, combine(work, SCAN, 1024, [client.object_id(1)] * 1024))
            assert client.survives()
            while client.completion() is not None:
                pass


def all_seats_of_a_large_group(daemon: Daemon) -> None:
    client = RawClient(daemon)
    for rank in range(1024):
        client.join("large", rank, 1024)
    client.close()
    time.sleep(0.5)


def large_segments_come_and_go(daemon: Daemon) -> None:
    until = time.monotonic() + ATTACK_S
    while time.monotonic() < until:
        with RawClient(daemon) as client:
            reply, fds = client.ask("Lease", bytes=512 << 20, timeout_ms=5000)
            if reply.name != "Segment":
                continue
            with mmap.mmap(fds[0], reply.bytes) as memory:
                client.ask("Mapped", segment=reply.segment)
                for at in range(0, reply.bytes, 4096):
                    memory[at] = 1
            os.close(fds[0])
            client.ask("Return", segment=reply.segment)


ATTACKS = {
    each.__name__: each
    for each in (
        nothing,
        a_busy_process_for_each_core,
        sixteen_large_reductions,
        status_flood,
        status_flood_of_16,
        lists_of_many_objects,
        death_with_many_objects,
        missing_queries,
        combines_that_disagree,
        scans_that_fill_the_store,
        all_seats_of_a_large_group,
        large_segments_come_and_go,
    )
}


def measure(name: str, bytes: int) -> None:
    daemon = Daemon("--memory", "1GiB")
    try:
        stop, times = WARM.Event(), WARM.Queue()
        with ranks(daemon, _bystand, 2, bytes, stop, times, context=WARM) as (_, results):
            time.sleep(0.5)
            ATTACKS[name](daemon)
            stop.set()
            took = sorted(iter(times.get, None))
            assert all(results.get(timeout=60)[1] for _ in range(2))
    finally:
        daemon.kill()
    median, p99 = statistics.median(took), took[int(len(took) * 0.99)]
    print(
        f"{name:30} {len(took):7} ops  {median * 1e6:8.0f} us  {p99 * 1e6:8.0f} us  {took[-1] * 1e3:8.1f} ms",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1024, help="size of the bystanders' op")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", choices=[*ATTACKS, []], help=", ".join(ATTACKS))
    options = parser.parse_args()
    for attack in options.attacks or ATTACKS:
        measure(attack, options.bytes)
