"""Programs as users start them: with torchrun and with ``muster run``, and with a rank that is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = str(Path(__file__).parents[2] / "python/examples/torch/digits_ddp.py")
CLI = os.environ.get("MUSTER_CLI", "muster")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PATIENCE_S = 300


def run(daemon, *command, environment=None):
    environment = {**os.environ, "MUSTER_SOCKET": daemon.socket, "OMP_NUM_THREADS": "1", **(environment or {})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    return done.returncode, done.stdout, done.stderr


def test_only_the_name_of_the_backend_differs(shared_daemon):
    told = {}
    for backend in ("gloo", "muster"):
        status, told[backend], errors = run(shared_daemon, *TORCHRUN, EXAMPLE, "--steps", "20", "--backend", backend)
        assert status == 0, errors
    assert told["muster"] == told["gloo"].replace("gloo", "muster")


def test_muster_run_starts_it(shared_daemon, unused_port):
    command = [CLI, "run", "-n", "2", "--", sys.executable, EXAMPLE, "--steps", "20"]
    status, told, errors = run(shared_daemon, *command, environment={"MASTER_PORT": str(unused_port)})
    assert status == 0, errors
    assert re.search(r"muster: [0-9.]+% right after 20 steps, begun at 0", told)


def test_training_goes_on_after_a_rank_was_killed(shared_daemon, tmp_path):
    options = ["--steps", "20", "--checkpoint", str(tmp_path / "saved"), "--kill-at", "10"]
    status, told, errors = run(shared_daemon, *TORCHRUN, "--max-restarts", "1", EXAMPLE, *options)
    assert status == 0, errors
    # Rank 0 may have saved the step in which the other rank died only if that one had given its gradients.
    assert "begun at 10" in told
    assert "PeerLost" in errors
    assert "rank 1" in errors


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
