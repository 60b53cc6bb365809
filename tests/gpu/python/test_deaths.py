"""Processes that end, or stop, while they use memory of GPUs."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from daemons import PATIENCE_S, eventually, is_process, muster, status, workers

HOLDER = """
import sys
import muster
import numpy as np
muster.init()
array = muster.empty(1 << 20, np.uint8, device="cuda:0")
ref = muster.put(np.ones(1 << 20, np.uint8), device="cuda:0")
view = ref.get()
print("ready", flush=True)
sys.stdin.read()
"""

SUMMER = """
import sys
import muster
import numpy as np
muster.init()
refs = [muster.put(np.full(1000, 2.0), device="cuda:0") for _ in range(3)]
print("ready", flush=True)
for line in sys.stdin:
    try:
        total = muster.allreduce_refs(refs, timeout=float(line)).result()
        print("sum", total.to_host()[0], flush=True)
    except muster.Error as error:
        print(type(error).__name__, flush=True)
"""


class Program:
    def __init__(self, environment, text):
        self.process = subprocess.Popen(
            [sys.executable, "-c", text], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.kill()
        self.process.wait(timeout=PATIENCE_S)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def environment(machine_with, tmp_path):
    """The environment of programs that use a daemon of their own, on a machine with one GPU."""
    machine = machine_with(1)
    environment = {**machine.environment, "MUSTER_SOCKET": str(tmp_path / "socket")}
    muster(environment, "start", "--memory", "256MiB")
    yield environment
    with contextlib.suppress(subprocess.CalledProcessError):
        muster(environment, "stop")
    machine.check_books()


@pytest.fixture
def program(environment):
    programs = []

    def started(text):
        programs.append(Program(environment, text))
        return programs[-1]

    yield started
    for one in programs:
        one.end()


def used(environment):
    return status(environment)["gpus"][0]["memory_used_bytes"]


def test_a_client_that_is_killed_leaves_nothing(environment, program):
    holder = program(HOLDER)
    assert used(environment) > 0
    holder.process.kill()
    eventually(lambda: used(environment), 0)


def test_what_a_client_has_outlives_the_worker(environment, program):
    summer = program(SUMMER)
    assert summer.ask("30") == "sum 6.0"
    [worker] = workers(environment)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: is_process(worker), False)
    assert summer.ask("30") == "sum 6.0"
    assert workers(environment) != [worker]


def test_a_worker_that_is_stopped_costs_its_op_only(environment, program):
    summer = program(SUMMER)
    assert summer.ask("30") == "sum 6.0"
    [worker] = workers(environment)
    os.kill(worker, signal.SIGSTOP)
    assert summer.ask("0.2") == "Timeout"
    # The daemon ends a worker that does not answer, and the next one does the next op.
    eventually(lambda: is_process(worker), False)
    assert summer.ask("30") == "sum 6.0"


def test_a_client_that_is_stopped_holds_up_nobody(environment, program):
    holder = program(HOLDER)
    os.kill(holder.process.pid, signal.SIGSTOP)
    assert program(SUMMER).ask("30") == "sum 6.0"


def test_the_end_of_the_daemon_is_told(environment, program):
    summer = program(SUMMER)
    daemon = status(environment)["pid"]
    [worker] = workers(environment)
    os.kill(daemon, signal.SIGKILL)
    assert summer.ask("30") == "DaemonUnavailable"
    eventually(lambda: is_process(worker), False)
