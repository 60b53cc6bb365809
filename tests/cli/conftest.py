"""Tests the `muster` command as a user would: the real executable, and a real daemon on a socket of its own."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest
from cli_harness import ROOT, RUNTIME, Muster, Terminal


@pytest.fixture
def muster():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-cli-"))  # short: a socket's path has 107 bytes at most
    command = Muster(folder)
    yield command
    command.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    made.close()


def compile_stub(target: pathlib.Path, *sources: str) -> None:
    target.parent.mkdir()
    flags = [
        "-std=c++20",
        "-shared",
        "-fPIC",
        *(f"-I{ROOT / folder}" for folder in ("daemon", "include")),
        "-o",
        str(target),
    ]
    subprocess.run(
        [os.environ.get("CXX", "c++"), *flags, *(str(ROOT / "tests" / "gpu" / "stubs" / source) for source in sources)],
        check=True,
        env={name: value for name, value in os.environ.items() if name not in RUNTIME},
    )


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns a folder with cuda/libcuda.so.1 and nccl/libnccl.so.2."""
    folder = tmp_path_factory.mktemp("stubs")
    compile_stub(folder / "cuda" / "libcuda.so.1", "cuda.cpp", "cuda_calls.cpp")
    compile_stub(folder / "nccl" / "libnccl.so.2", "nccl.cpp", "nccl_calls.cpp")
    return folder
