"""Runs the examples as their first lines say, on a daemon that serves others, too, or on one that ends up empty."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from daemon import Daemon, output_of

EXAMPLES = pathlib.Path(__file__).parents[2] / "python/examples"
CLI = os.environ.get("MUSTER_CLI", "muster")
PATIENCE_S = 100


def test_the_training_accounts_for_itself_alone(muster, tmp_path):
    held = muster.put(np.ones(1 << 16))
    run = [CLI, "run", "-n", "2", "--", sys.executable]
    environment = {**os.environ, "MUSTER_SOCKET": muster.status()["socket"]}
    printed = output_of([*run, str(EXAMPLES / "digits.py"), "--epochs", "2"], environment, PATIENCE_S, tmp_path)
    assert "bit-identical on all 2 ranks" in printed
    assert "0.0 MiB copied; objects left 0" in printed
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert held.get()[0] == 1


def test_the_training_shows_a_progress_bar_on_a_terminal(muster, tmp_path):
    run = [CLI, "run", "-n", "2", "--", sys.executable]
    environment = {**os.environ, "MUSTER_SOCKET": muster.status()["socket"]}
    leader, follower = os.openpty()
    command = [*run, str(EXAMPLES / "digits.py"), "--epochs", "2"]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    while piece := read_or_end(leader):
        shown += piece
    os.close(leader)
    assert process.wait(PATIENCE_S) == 0, shown
    assert b"\r[" + b"#" * 15 + b"." * 15 + b"]\repoch  1/2 " in shown
    assert b"\r[" + b"#" * 30 + b"]\repoch  2/2 " in shown


def read_or_end(leader: int) -> bytes:
    """Reads from the terminal; empty when no process has it open any more."""
    try:
        return os.read(leader, 1 << 16)
    except OSError:
        return b""


def printed_by(daemon: Daemon, folder: pathlib.Path, example: str, *options: str) -> str:
    """Returns the example's output. Afterwards the daemon has no clients, and nobody needs anything in its store."""
    environment = {**os.environ, "MUSTER_SOCKET": daemon.socket}
    command = [sys.executable, "-W", "error", str(EXAMPLES / example), *options]
    printed = output_of(command, environment, PATIENCE_S, folder)
    # Workers that a pool leaves behind end on their own.
    told = daemon.status_once(lambda told: not told["clients"])
    daemon.until_nothing_is_needed()
    assert told["bytes_copied"] == 0
    return printed


@pytest.mark.parametrize("pool", ["fork", "spawn", "forkserver", "processes", "threads", "loky", "joblib-threads"])
def test_the_sweep_is_the_same_in_any_pool(own_daemon, tmp_path, pool):
    printed = printed_by(own_daemon, tmp_path, "sweep.py", "--pool", pool)
    assert printed.splitlines() == [
        f"{pool}: 12 results of 11200 bytes, 0 copies",
        "results: bit-identical; mean: agrees",
    ]


def test_what_a_pool_returned_goes_at_the_end_of_its_pickles_lease(tmp_path):
    daemon = Daemon("--memory", "64MiB", "--pickle-lease", "5")
    printed_by(daemon, tmp_path, "sweep.py")
    daemon.status_once(lambda told: not told["objects"])
    daemon.stop()


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_ranks_started_in_any_way_agree(own_daemon, tmp_path, start):
    printed = printed_by(own_daemon, tmp_path, "ranks.py", "--start", start)
    own_daemon.status_once(lambda told: told["objects"] == 0)
    assert printed.splitlines() == [f"{start}: 3 ranks, 0 copies", "fit: bit-identical on all ranks; agrees"]


def test_tasks_of_an_event_loop(own_daemon, tmp_path):
    printed = printed_by(own_daemon, tmp_path, "tasks.py")
    own_daemon.status_once(lambda told: told["objects"] == 0)
    assert printed.splitlines() == [
        "100 tasks: all sums right",
        "timeout of asyncio: awaited again",
        "cancelled: completed for the others",
        "timeout of the op: missing rank 3",
    ]
