"""`musterd --gpu-probe`: one document on standard output, whatever there is, and no process left behind."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest
from cli_harness import PATIENCE_S, Muster, wait_gone


@pytest.fixture
def probe(muster: Muster, stubs: pathlib.Path):
    """Runs the probe with both libraries in front."""

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess:
        program = pathlib.Path(muster.path).with_name("musterd")
        env = {**muster.env, "LD_LIBRARY_PATH": f"{stubs}/cuda:{stubs}/nccl", **variables}
        command = [program, "--gpu-probe", *words]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=PATIENCE_S)

    return run


def test_the_document_says_what_there_is(probe, stubs):
    done = probe()
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert list(document) == ["kernel_driver", "driver", "init", "devices", "nccl"]
    assert document["driver"]["finding"] == document["nccl"]["finding"] == "found"
    assert document["driver"]["path"] == f"{stubs}/cuda/libcuda.so.1"
    assert document["init"] == {"status": 0, "name": "an unknown status"}  # the stub has no name for it
    [device] = document["devices"]
    assert device == {
        "index": 0,
        "name": "Stub GPU",
        "uuid": "GPU-00a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf",
        "pci": "0000:01:00.0",
        "memory_bytes": 80 << 30,
        "compute_capability": "9.0",
        "compute_mode": "default",
        "virtual_memory": True,
        "posix_descriptors": True,
        "fabric_handles": True,
        "granularity_bytes": 2 << 20,
        "legacy_ipc": True,
    }
    attempt = document["driver"]["attempts"][0]
    assert attempt["file"] == "libcuda.so.1"
    assert str(stubs) in attempt["source"]


def test_what_the_driver_prints_is_kept_apart(probe):
    done = probe(STUB_CUDA_INIT="print")
    assert json.loads(done.stdout)["init"]["status"] == 0
    assert "prints" in done.stderr


def test_the_nccl_of_the_starters_environment_comes_before_the_systems(probe, stubs, tmp_path):
    wheel = tmp_path / "libnccl.so.2"
    wheel.write_bytes((stubs / "nccl" / "libnccl.so.2").read_bytes())
    assert json.loads(probe("--nccl-wheel", str(wheel)).stdout)["nccl"]["path"] == str(wheel)
    assert json.loads(probe("--nccl-wheel", "/nowhere/nccl").stdout)["nccl"]["path"].startswith(str(stubs))


def test_an_answer_that_nobody_can_read_is_a_failure(muster):
    program = pathlib.Path(muster.path).with_name("musterd")
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([program, "--gpu-probe"], stdout=write_end, stderr=subprocess.DEVNULL, env=muster.env)
    os.close(write_end)
    assert done.returncode != 0


def children_of(pid: int) -> list[int]:
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_probe_that_hangs_ends_with_its_starter(muster, stubs):
    muster.env.update(LD_LIBRARY_PATH=str(stubs / "cuda"), STUB_CUDA_INIT="hang")
    doctor = muster.start("doctor", "--timeout", "600")
    until = time.monotonic() + PATIENCE_S
    child = None
    # The probe asks to end with its starter before it opens the driver.
    while child is None or "libcuda.so.1" not in pathlib.Path(f"/proc/{child}/maps").read_text():
        assert time.monotonic() < until
        child = next(iter(children_of(doctor.pid)), None)
    doctor.send_signal(signal.SIGKILL)
    wait_gone(child)
