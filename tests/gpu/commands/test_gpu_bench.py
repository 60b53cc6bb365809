"""bench/gpu without a GPU: it measures nothing, and calls the figures of a fake what they are."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[3] / "bench" / "gpu"


@pytest.fixture
def run(build: Path, tmp_path: Path):
    """Runs bench/gpu over a fake machine."""
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(build / "tests/gpu/fake/cuda"),
        "MUSTER_FAKE_GPU_DIR": str(tmp_path / "machine"),
        "MUSTER_FAKE_KERNELS": str(build / "lib/libmuster_gpu_kernels_host.so"),
    }

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [BENCH, "--build", build, *words]
        return subprocess.run(
            command,
            env={**environment, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_wrong_usage(run):
    assert run("--unknown").returncode == 2
    assert run("--json").returncode == 2
    assert subprocess.run([BENCH, "--build", "/no/such"], capture_output=True, check=False).returncode == 2


def test_a_fake_is_not_measured(run):
    told = run()
    assert told.returncode == 2
    assert "its figures would mean nothing" in told.stderr


def test_everything_works_over_a_fake_and_is_marked(run, tmp_path):
    told = run("--smoke", "--json", "figures.json")
    assert told.returncode == 0, told.stderr
    rows = [line for line in told.stdout.splitlines() if line.startswith("| ")][2:]
    assert rows
    assert all("of a fake, means nothing" in row for row in rows)
    figures = [json.loads(line) for line in (tmp_path / "figures.json").read_text().splitlines()]
    assert len(figures) == len(rows)
    assert {figure["what"] for figure in figures} == {
        "copy",
        "fold",
        "launch and wait",
        "worker started",
        "lease",
        "job",
        "import and map",
        "unmap",
    }
    assert all(figure["fake"] and figure["median_us"] > 0 for figure in figures)
    assert {figure["ranks"] for figure in figures if figure["what"] == "fold"} == {2, 4, 8}


def test_an_allreduce_over_two_gpus_is_measured_by_nccl_alone_and_by_the_workers(run, build, tmp_path):
    fakes = build / "tests/gpu/fake"
    if not (fakes / "nccl").exists():
        return
    told = run(
        "--smoke",
        "--json",
        "figures.json",
        MUSTER_FAKE_GPU_DEVICES="2",
        LD_LIBRARY_PATH=f"{fakes / 'cuda'}:{fakes / 'nccl'}",
    )
    assert told.returncode == 0, told.stderr
    figures = [json.loads(line) for line in (tmp_path / "figures.json").read_text().splitlines()]
    for what in ("allreduce by NCCL", "allreduce by workers"):
        assert [figure["bytes"] for figure in figures if figure["what"] == what] == [32 << 10, 1 << 20]
    assert all(figure["fake"] for figure in figures)


def test_whole_ops_are_measured_where_python_has_cupy(run, build, tmp_path):
    assert "left out: whole ops: python3 has not both CuPy and Muster" in run("--smoke").stdout
    stand_ins = Path(__file__).resolve().parents[1] / "python/stand_ins"
    told = run("--smoke", "--json", "figures.json", PYTHONPATH=str(stand_ins))
    assert told.returncode == 0, told.stderr
    figures = [json.loads(line) for line in (tmp_path / "figures.json").read_text().splitlines()]
    whats = {figure["what"] for figure in figures}
    assert {
        "CuPy: decorated call, 0 copies",
        "empty and seal",
        "put: one copy",
        "allreduce on one GPU",
        "allreduce over the host",
    } <= whats
    assert all(figure["fake"] and figure["median_us"] > 0 for figure in figures)


def test_with_one_gpu_an_allreduce_is_left_out(run):
    assert "left out: allreduce: there is one GPU" in run("--smoke").stdout


def test_a_machine_whose_driver_has_no_gpu_has_a_status_of_its_own(run):
    told = run(MUSTER_FAKE_GPU_DEVICES="0")
    if Path("/dev/nvidiactl").exists():
        assert told.returncode == 1
    else:
        assert told.returncode == 77
        assert told.stdout.startswith("no GPU: nothing was measured: ")
