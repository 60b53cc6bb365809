"""The example of handwritten digits with gradients in memory of GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from machines import has_nccl

DIGITS = Path(__file__).resolve().parents[3] / "python" / "examples" / "digits.py"


@pytest.mark.parametrize("gpus", [1, 4] if has_nccl() else [1])
def test_four_ranks_train(machine_with, tmp_path, gpus):
    environment = {**machine_with(gpus).environment, "MUSTER_SOCKET": str(tmp_path / "socket")}
    program = [sys.executable, DIGITS, "--device", "cuda", "--epochs", "4", "--picture", str(tmp_path / "picture.png")]
    run = subprocess.run(
        [os.environ["MUSTER_CLI"], "run", "-n", "4", "--", *program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "copies: 0 of all ranks' gradients" in run.stdout
    assert "bit-identical on all 4 ranks" in run.stdout
    assert "weights: agree with the same training in one process" in run.stdout
