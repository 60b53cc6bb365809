"""NVIDIA's own Python bindings as a client of the fake driver that nobody here wrote, or of the real one."""

import socket
import subprocess
import sys
from pathlib import Path

NEEDS = "cuda.bindings"
SHARE = Path(__file__).with_name("share_by_bindings.py")


def test_two_processes_share_memory(machine):
    ours, theirs = socket.socketpair()
    processes = [
        subprocess.Popen(
            [sys.executable, SHARE, role, str(end.fileno())], env=machine.environment, pass_fds=[end.fileno()]
        )
        for role, end in (("make", ours), ("take", theirs))
    ]
    ours.close()
    theirs.close()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    machine.check_books(processes=2)
