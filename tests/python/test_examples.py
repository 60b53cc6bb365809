"""The examples, run as their first lines say, on a daemon that serves others, too."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np

EXAMPLES = pathlib.Path(__file__).parents[2] / "python/examples"
PATIENCE_S = 100


def test_the_training_accounts_for_itself_alone(muster, tmp_path):
    held = muster.put(np.ones(1 << 16))
    picture = tmp_path / "digits.png"
    command = [
        os.environ.get("MUSTER_CLI", "muster"),
        "run",
        "-n",
        "2",
        "--",
        sys.executable,
        str(EXAMPLES / "digits.py"),
    ]
    environment = {**os.environ, "MUSTER_SOCKET": muster.status()["socket"]}
    done = subprocess.run(
        [*command, "--epochs", "2", "--picture", str(picture)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-identical on all 2 ranks" in done.stdout
    assert "0.0 MiB copied; objects left 0" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert held.get()[0] == 1
