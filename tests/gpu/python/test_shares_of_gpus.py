"""What one process or user may have of a GPU."""

import os
import subprocess
import sys

import pytest
from daemons import PATIENCE_S, muster

PROGRAM = """
import muster
import numpy as np

muster.init()
half = muster.put(np.ones(24 << 20, np.uint8), device="cuda:0")
try:
    muster.put(np.ones(24 << 20, np.uint8), device="cuda:0", timeout=0.1)
except muster.Error as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("option", ["--user-memory", "--client-memory"])
def test_a_limit_on_the_host_is_the_same_share_of_a_gpu(machine, tmp_path, option):
    environment = {**machine.environment, "MUSTER_SOCKET": str(tmp_path / "socket")}
    muster(environment, "start", "--memory", "128MiB", option, "64MiB", "--gpu-memory", "64MiB")
    try:
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith("QuotaExceeded"), run.stdout
        assert "32 MiB" in run.stdout
    finally:
        subprocess.run(
            [os.environ["MUSTER_CLI"], "stop"], env=environment, check=True, timeout=PATIENCE_S, capture_output=True
        )
