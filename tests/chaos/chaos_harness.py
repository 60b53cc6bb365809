"""Helpers for the tests of hostile and dying clients: quickly forked processes, and checks of what they leave."""

from __future__ import annotations

import json
import multiprocessing
import pathlib
import subprocess
import time
from collections.abc import Callable

import numpy as np
from cli_harness import find_muster

from daemon import Daemon, ranks

PATIENCE_S = 60  # bounds how long something may take; no test waits this long when all is well

# Forked from a server that has imported everything and never connected: takes milliseconds, and has hit no failpoint
# yet.
SOURCE = pathlib.Path(__file__).parents[2]
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["numpy", "muster", "pytest"])


def eventually(look: Callable[[], object], wanted: object = True) -> None:
    """Returns once `look()` gives the wanted value; fails with the last value otherwise."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.002)
    assert found == wanted


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process, even under a tracer."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] in "Tt"


def ask(daemon: Daemon, *words: str) -> dict:
    """Returns what `muster` reports about the daemon, as for a user."""
    done = subprocess.run(
        [find_muster(), *words, "--json", "--socket", daemon.socket],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_forgotten(daemon: Daemon, pid: int) -> None:
    """Returns once the daemon holds nothing for this process any more."""

    def traces() -> list:
        clients = [client for client in ask(daemon, "status")["clients"] if client["pid"] == pid]
        objects = [one for one in ask(daemon, "ls")["objects"] if f"(pid {pid})" in json.dumps(one)]
        seats = [group for group in ask(daemon, "groups")["groups"] if any(s["pid"] == pid for s in group["seats"])]
        return clients + objects + seats

    eventually(traces, [])


def is_forgotten(daemon: Daemon, client: int) -> None:
    """Returns once the daemon holds nothing for this client any more."""
    eventually(lambda: [one for one in ask(daemon, "status")["clients"] if one["id"] == client], [])
    # The daemon gives back in pieces what the client held.
    eventually(lambda: "hostile" in json.dumps([ask(daemon, "ls"), ask(daemon, "groups")]), False)


def wait_empty(daemon: Daemon) -> None:
    """Returns once the daemon holds nothing for anybody except the process that asks."""
    counts = ("objects", "segments", "groups", "ops_in_flight", "waiting_for_memory", "memory_used_bytes")
    counts += ("heap_used_bytes", "maps_used")
    nothing = {"clients": [], **dict.fromkeys(counts, 0)}

    def held() -> dict:
        told = ask(daemon, "status")
        return {name: told[name] for name in nothing}

    eventually(held, nothing)
    assert ask(daemon, "ls")["objects"] == []


def _sum(rank: int) -> float:
    import muster

    with muster.group("fresh", rank=rank, world_size=2, timeout=PATIENCE_S) as group:
        return float(group.allreduce(np.full(1 << 16, rank + 1.0)).result()[-1])


def serves_newcomers(daemon: Daemon) -> None:
    """Checks that the daemon goes on: two fresh processes reduce something."""
    with ranks(daemon, _sum, 2, context=WARM) as (_, results):
        assert [results.get(timeout=PATIENCE_S)[1:] for _ in range(2)] == [(True, 3.0)] * 2


def _reduce_until(rank: int, stop, done) -> int:
    import muster

    steps = 0
    with muster.group("healthy", rank=rank, world_size=2, timeout=PATIENCE_S) as group:
        # The flag is reduced, too, so both end at the same step.
        while group.allreduce(int(stop.is_set()), op="max").result() == 0:
            for size in (1, 1 << 15):
                total = group.allreduce(np.full(size, steps + rank)).result()
                assert (total == 2 * steps + 1).all()
            steps += 1
            if rank == 0:
                done.value = steps
            stop.wait(0.0005)  # leaves some of the cores' time to the processes under test
    return steps


class HealthyPair:
    """Two ranks that reduce all the time, with a deadline, whatever happens meanwhile."""

    def __init__(self, daemon: Daemon) -> None:
        self.stop, self.done = WARM.Event(), WARM.Value("q", 0)
        self.ranks = ranks(daemon, _reduce_until, 2, self.stop, self.done, context=WARM)

    def __enter__(self):
        self.processes, self.results = self.ranks.__enter__()
        self.goes_on()
        return self

    def goes_on(self, steps: int = 10) -> None:
        """Checks that they do some more steps from now on."""
        wanted = self.done.value + steps
        eventually(lambda: self.done.value >= wanted or not all(one.is_alive() for one in self.processes))
        assert self.done.value >= wanted

    def __exit__(self, *error):
        try:
            if error == (None, None, None):
                self.stop.set()
                ended = [self.results.get(timeout=PATIENCE_S) for _ in range(2)]
                assert all(good for _, good, _ in ended), ended
        finally:
            self.ranks.__exit__(*error)
