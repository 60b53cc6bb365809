"""Tests what a user gets from the wheel: executables, and a README whose examples work unchanged.

Runs in an environment of its own, away from the checkout, with a copy of README.md next to this folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
PATIENCE_S = 60


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Yields the environment of a user without a daemon. A daemon started in it ends with the test."""
    folder = Path(tempfile.mkdtemp(prefix="muster-"))  # short: a socket's path has 107 bytes at most
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "HOME": str(folder)}
    variables["MUSTER_SOCKET"] = str(folder / "s")
    yield variables
    subprocess.run(["muster", "stop"], env=variables, check=False, capture_output=True, timeout=PATIENCE_S)
    shutil.rmtree(folder)


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def run(command: list[str], environment: dict[str, str], stdin: str = "") -> str:
    done = subprocess.run(
        command, env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["musterd", "muster"])
def test_executables_are_the_real_ones(name: str, environment: dict[str, str]):
    executable = Path(sys.executable).with_name(name)
    assert executable.read_bytes()[:4] == b"\x7fELF"
    assert "0.1.0" in run([str(executable), "--version"], environment)


def test_completion_of_the_shell_is_there():
    assert "complete -F _muster muster" in (Path(sys.prefix) / "share/bash-completion/completions/muster").read_text()


def test_the_first_example_pasted_into_an_interpreter(environment: dict[str, str]):
    said = run([sys.executable, "-i", "-q", "-c", ""], environment, stdin=examples()[0] + "\n")
    assert "copies [0, 0, 0, 0]" in said


def test_the_second_example_in_four_processes(environment: dict[str, str], tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(examples()[1])
    said = run(["muster", "run", "-n", "4", "--", sys.executable, str(script)], environment)
    for rank in range(4):
        assert f"rank {rank}: copies 0, mean [1.5 1.5 1.5]" in said


def test_the_third_example_with_a_pool(environment: dict[str, str], tmp_path: Path):
    script = tmp_path / "sweep.py"
    script.write_text(examples()[2])
    assert run([sys.executable, str(script)], environment) == "mean 0.50\n"
