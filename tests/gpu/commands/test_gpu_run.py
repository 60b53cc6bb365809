"""tests/gpu/run on machines without a GPU: it must not test the fakes, and must not pass."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]


def run(*arguments: str | Path, **variables: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    words = [TESTS / "gpu" / "run", *arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_wrong_usage():
    assert run("--unknown").returncode == 2
    assert run("one", "two").returncode == 2
    told = run("/no/such/build")
    assert told.returncode == 2
    assert "has no bin/musterd" in told.stderr


def test_help_names_the_statuses():
    told = run("--help")
    assert told.returncode == 0
    assert "77 there is no GPU" in told.stdout


def test_fakes_are_refused(build, tmp_path):
    told = run(build, LD_LIBRARY_PATH=build / "tests/gpu/fake/cuda", MUSTER_FAKE_GPU_DIR=tmp_path)
    assert told.returncode == 2
    assert "is a fake of these tests" in told.stderr


class Functions:
    """Calls functions of tests/lib/gpu.sh over the fakes, as if they were a machine with one GPU."""

    def __init__(self, build: Path, folder: Path) -> None:
        self.build, self.folder = build, folder
        (folder / "build" / "logs").mkdir(parents=True)

    def __call__(self, commands: str) -> str:
        fake = self.build / "tests/gpu/fake"
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": f"{fake / 'cuda'}:{fake / 'nccl' / '2.19.3'}",
            "MUSTER_FAKE_GPU_DIR": str(self.folder / "machine"),
            "MUSTER_FAKE_KERNELS": str(self.build / "lib/libmuster_gpu_kernels_host.so"),
            "bin": str(self.build / "bin"),
        }
        script = f"""
            set -euo pipefail
            source {TESTS}/../deploy/lib/say.sh
            source {TESTS}/lib/gpu.sh
            gpus=1 nccl_version=2.19.3 gpus_text="1 x no GPU" probe=
            {commands}
        """
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return f"{done.stdout}{done.stderr}status {done.returncode}\n"


@pytest.fixture
def functions(build, tmp_path) -> Functions:
    return Functions(build, tmp_path)


def test_what_a_machine_lacks_is_left_out_by_name(functions):
    told = functions('run_suite "$bin/nccl_conformance_test"; show_summary')
    assert "cases passed (" in told
    assert ", 0 failed" in told
    assert "a send reaches the receive of its peer, in the order of the calls (needs 2 GPUs)" in told
    assert "a communicator that was finalized isn't revoked (needs NCCL 2.28.7)" in told
    assert "status 0" in told


def test_without_nccl_its_suite_is_left_out(functions):
    told = functions('nccl_version=; run_suite "$bin/nccl_conformance_test"; show_summary')
    assert "each unique id is another one (there is no NCCL" in told
    assert "cases passed" not in told


def test_a_suite_for_more_gpus_is_left_out(functions):
    told = functions('run_suite "$bin/gpus_e2e_test"; show_summary')
    assert "many ops at a time (needs 2 GPUs)" in told
    assert "(needs 4 GPUs)" in told
    assert "FAILED" not in told


def test_suites_of_several_gpus_run_where_there_are_some(functions):
    told = functions('export MUSTER_FAKE_GPU_DEVICES=2; gpus=2; run_suite "$bin/gpus_e2e_test"; show_summary')
    assert "gpus_e2e_test: 1 cases passed" in told
    assert "(needs 2 GPUs)" not in told
    assert "FAILED" not in told


def test_a_case_that_fails_is_named(functions):
    told = functions('MUSTER_FAKE_GPU_DEVICES=0 run_suite "$bin/gpu_kernels_driver_test"; show_summary')
    assert "FAILED: gpu_kernels_driver_test: folds give what arithmetic gives (status " in told
    assert "status 1" in told


def test_a_program_that_is_not_there_fails(functions):
    assert "status 1" in functions('run_suite "$bin/no_such_test"; show_summary')


def test_a_package_that_is_not_there_is_named(functions):
    (functions.folder / "test_other.py").write_text('NEEDS = "no_such_package"\n')
    told = functions('run_python test_other.py python3 "$bin/.."; show_summary')
    assert "test_other.py (python3 has no " in told
    assert "status 0" in told


def test_what_was_left_out_is_counted_also_where_a_file_fails(functions):
    (functions.folder / "test_mixed.py").write_text(
        "import pytest\n\n"
        "def test_left_out():\n    pytest.skip('missing device: a second GPU')\n\n"
        "def test_wrong():\n    assert False\n"
    )
    told = functions('run_python test_mixed.py python3 "$bin/.."; show_summary')
    assert "missing device: a second GPU" in told
    assert "left out: 1, named above" in told
    assert "FAILED: test_mixed.py" in told
    assert "status 1" in told
