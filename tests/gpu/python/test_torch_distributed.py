"""Tensors on GPUs over torch.distributed: PyTorch's own on real GPUs, here those of tensors_on_gpus.py."""

import os
import subprocess
import sys

import pytest
from daemons import muster
from machines import HERE, PATIENCE_S, has_nccl, programs_in

NEEDS = "torch.cuda"
FILE = "torch_distributed_programs.py"
PROGRAMS = sorted(programs_in(FILE))
WITHOUT_GPUS = "without_gpus"


def run_ranks(environment, *names):
    ranks = [os.environ["MUSTER_CLI"], "run", "-n", "2", "--", sys.executable, HERE / FILE, *names]
    run = subprocess.run(ranks, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("gpus", [1, 2] if has_nccl() else [1])
def test_programs(machine_with, tmp_path, gpus):
    """All of them in two processes: to import PyTorch takes longer than any of them."""
    environment = {**machine_with(gpus).environment, "MUSTER_SOCKET": str(tmp_path / "socket")}
    run_ranks(environment, *(name for name in PROGRAMS if name != WITHOUT_GPUS))


def test_a_daemon_without_gpus_says_so(machine_with, tmp_path):
    environment = {**machine_with(1).environment, "MUSTER_SOCKET": str(tmp_path / "socket")}
    muster(environment, "start", "--gpu-memory", "0")
    try:
        run_ranks(environment, WITHOUT_GPUS)
    finally:
        muster(environment, "stop")
