"""The machine whose GPUs the tests use: one with two fake GPUs, or with MUSTER_TEST_GPU=real this one."""

import json
import os
import subprocess
import sys

import pytest
from machines import IS_REAL, FakeMachine, RealMachine

PATIENCE_S = 60


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return RealMachine() if IS_REAL else FakeMachine(tmp_path_factory.mktemp("machine"))


@pytest.fixture
def machine_with(tmp_path):
    """Makes a machine with so many GPUs; a real one has those that it has."""
    return lambda gpus: RealMachine() if IS_REAL else FakeMachine(tmp_path / "machine", gpus)


@pytest.fixture(scope="module")
def environment(machine, tmp_path_factory):
    """The environment of programs that use one daemon. When all have ended, nothing may be left on the machine."""
    socket = str(tmp_path_factory.mktemp("daemon") / "socket")
    environment = {**machine.environment, "MUSTER_SOCKET": socket}
    muster = os.environ["MUSTER_CLI"]
    # Little, so that programs can use it up.
    start = [muster, "start", "--memory", "256MiB", "--gpu-memory", "320MiB"]
    subprocess.run(start, env=environment, check=True, timeout=PATIENCE_S)
    yield environment
    subprocess.run([muster, "stop"], env=environment, check=True, timeout=PATIENCE_S)
    machine.check_books()


@pytest.fixture(scope="module")
def gpus(environment):
    """How many the daemon has."""
    told = subprocess.run(
        [os.environ["MUSTER_CLI"], "status", "--json"], env=environment, check=True, capture_output=True, text=True
    )
    return len(json.loads(told.stdout)["gpus"])


@pytest.fixture
def run_program(environment):
    """Runs a program of a file of programs, which must end well. ``more`` are variables of its environment."""

    def run(file, name, **more):
        program = [sys.executable, file, name]
        run = subprocess.run(
            program, env={**environment, **more}, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert run.returncode == 0, run.stderr

    return run


@pytest.fixture
def own_daemon(tmp_path):
    """Returns the environment in which a program that kills its daemon has one of its own."""
    return lambda text: {"MUSTER_SOCKET": str(tmp_path / "socket")} if "SIGKILL" in text else {}
