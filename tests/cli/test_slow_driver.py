"""Daemons on a machine whose GPU driver doesn't answer."""

import pathlib
import subprocess

import pytest
from cli_harness import PATIENCE_S, Muster

SERVED = 3


@pytest.fixture
def slow(muster: Muster, stubs: pathlib.Path) -> Muster:
    muster.env.update(LD_LIBRARY_PATH=str(stubs / "cuda"), STUB_CUDA_INIT="hang")
    return muster


def test_a_driver_that_hangs_leaves_the_daemon_without_gpus(slow):
    started = slow("start", "--gpu-timeout", "1")
    assert started.returncode == 0, started.stderr
    log = pathlib.Path(slow.socket + ".log").read_text()
    assert "GPUs: the probe of the driver failed: it did not say in time what there is; its last words: " in log
    assert "calls cuInit" in log
    assert slow("stop").returncode == 0


def test_a_second_daemon_does_not_wait_for_the_driver(slow):
    assert slow("start", "--gpu-memory", "0").returncode == 0
    daemon = pathlib.Path(slow.path).with_name("musterd")
    command = [daemon, "--gpu-timeout", "3600"]
    second = subprocess.run(command, env=slow.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert second.returncode == SERVED
    assert "another musterd serves" in second.stderr
    assert slow("stop").returncode == 0


def test_a_timeout_that_makes_no_sense_is_refused(slow):
    refused = slow("start", "--gpu-timeout", "0")
    assert refused.returncode == 2
    assert "'0' is not a number from 1 to" in refused.stderr
