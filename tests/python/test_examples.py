"""The examples, run as their first lines say, on a daemon that serves others, too."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np

from daemon import output_of

EXAMPLES = pathlib.Path(__file__).parents[2] / "python/examples"
PATIENCE_S = 100


def test_the_training_accounts_for_itself_alone(muster, tmp_path):
    held = muster.put(np.ones(1 << 16))
    run = [os.environ.get("MUSTER_CLI", "muster"), "run", "-n", "2", "--", sys.executable]
    environment = {**os.environ, "MUSTER_SOCKET": muster.status()["socket"]}
    printed = output_of([*run, str(EXAMPLES / "digits.py"), "--epochs", "2"], environment, PATIENCE_S, tmp_path)
    assert "bit-identical on all 2 ranks" in printed
    assert "0.0 MiB copied; objects left 0" in printed
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert held.get()[0] == 1


def test_the_training_shows_a_progress_bar_on_a_terminal(muster, tmp_path):
    run = [os.environ.get("MUSTER_CLI", "muster"), "run", "-n", "2", "--", sys.executable]
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
    """Empty when no process has the terminal open any more."""
    try:
        return os.read(leader, 1 << 16)
    except OSError:
        return b""
