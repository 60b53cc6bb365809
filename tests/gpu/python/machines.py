"""Machines whose GPUs the tests use."""

import ast
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

PATIENCE_S = 30
IS_REAL = os.environ.get("MUSTER_TEST_GPU") == "real"
HERE = Path(__file__).parent


def programs_in(file: str) -> dict[str, str]:
    """Returns the text of each program in a file: its functions without arguments. The library may not be here."""
    text = (HERE / file).read_text(encoding="utf-8")
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {each.name: ast.get_source_segment(text, each) or "" for each in functions if not each.args.args}


def library_for_gpus() -> dict[str, str]:
    """Returns the environment in which programs find a library that uses GPUs: itself on real ones, or a stand-in."""
    return {} if IS_REAL else {"PYTHONPATH": f"{HERE / 'stand_ins'}:{os.environ.get('PYTHONPATH', '')}"}


def leave_out_without(gpus: int, text: str) -> None:
    """Skips a program whose text uses a second GPU where there is one."""
    if gpus < 2 and "cuda:1" in text:
        pytest.skip("missing device: the program needs two GPUs, and this machine has one")


def fakes() -> Path:
    """Returns the folder of the fake libraries."""
    program = shutil.which("muster_fake_gpu_books")
    assert program, "this build has no fake driver: configure it where cuda.h is, with the tests (tests/run does)"
    return Path(program).parent.parent / "tests" / "gpu" / "fake"


def has_nccl() -> bool:
    """Whether ops over several GPUs can be tested: builds with sanitizers have no fake NCCL."""
    return IS_REAL or (fakes() / "nccl").exists()


def gpus_max() -> int:
    """How many GPUs a machine for tests can have."""
    return len(list(Path("/proc/driver/nvidia/gpus").iterdir())) if IS_REAL else 8


class RealMachine:
    """This one. ``environment`` is for the processes that use it."""

    def __init__(self):
        self.environment = dict(os.environ)

    def check_books(self, processes=None):
        """Real GPUs have no books."""


class FakeMachine:
    def __init__(self, folder, gpus=2):
        build = fakes().parents[2]
        self.environment = {
            **os.environ,
            "LD_LIBRARY_PATH": f"{fakes() / 'cuda'}:{fakes() / 'nccl'}",
            "MUSTER_FAKE_GPU_DIR": str(folder),
            "MUSTER_FAKE_GPU_DEVICES": str(gpus),
            "MUSTER_FAKE_KERNELS": str(build / "lib" / "libmuster_gpu_kernels_host.so"),
        }

    def check_books(self, processes=None):
        """When the processes have ended, nothing may be left on the machine. ``processes``: how many there were.

        A daemon's workers are killed when it ends, and may need a moment for that.
        """
        until = time.monotonic() + PATIENCE_S
        while True:
            run = subprocess.run(
                ["muster_fake_gpu_books", "--empty"], env=self.environment, capture_output=True, text=True, check=False
            )
            if run.returncode == 0:
                break
            assert time.monotonic() < until, run.stdout
        if processes is not None:
            assert len(json.loads(run.stdout)["processes"]) == processes
