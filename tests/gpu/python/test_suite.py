"""The tests of ops on one node, over memory of GPUs: one, and several over which the ranks are spread."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from machines import gpus_max, has_nccl

NEEDS = "hypothesis"
TESTS = Path(__file__).resolve().parents[2] / "python"
OF_OPS = ("collectives",)
OF_THE_STORE = ("containers", "lifetimes", "seals", "structure", "tokens")
IS_SLOW = "ASAN_OPTIONS" in os.environ
GPUS = [gpus for gpus in ((2,) if IS_SLOW else (1, 2, 3, 5, 8)) if gpus <= gpus_max()]


@pytest.mark.parametrize("gpus", GPUS if has_nccl() else [1])
def test_ops_over_gpus(machine_with, gpus):
    machine = machine_with(gpus)
    files = [str(TESTS / f"test_{name}.py") for name in OF_OPS + (OF_THE_STORE if gpus == 1 else ())]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "over_gpus", "-p", "no:cacheprovider", "--tb=short", "-q", *files],
        env={
            **machine.environment,
            "MUSTER_TEST_GPUS": str(gpus),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    machine.check_books()
