"""The examples, run as their first lines say, on a daemon that serves others, too."""

from __future__ import annotations

import os
import pathlib
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
