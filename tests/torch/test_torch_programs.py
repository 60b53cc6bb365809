"""Programs as users start them: with torchrun and with ``muster run``, and with a rank that is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "python/examples/torch"
DIGITS, LETTERS = str(EXAMPLES / "digits_ddp.py"), str(EXAMPLES / "letters.py")
CLI = os.environ.get("MUSTER_CLI", "muster")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
#: It ends the other ranks when it sees that one has died, so what those say last may be missing.
RESTARTING = [*TORCHRUN, "--max-restarts", "1"]
PATIENCE_S = 300


def run(daemon, *command):
    environment = {**os.environ, "MUSTER_SOCKET": daemon.socket, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    return done.returncode, done.stdout, done.stderr


def run_over_gloo(daemon, *command):
    """Returns what it tells. With torch 2.14.1, a process aborts at its end now and then when it has used Gloo."""
    for _ in range(5):
        status, told, errors = run(daemon, *command, "--backend", "gloo")
        if status == 0 or "terminate called without an active exception" not in errors:
            break
    assert status == 0, errors
    return told


def test_only_the_name_of_the_backend_differs(shared_daemon):
    command = [*TORCHRUN, DIGITS, "--steps", "20"]
    wanted = run_over_gloo(shared_daemon, *command).replace("gloo", "muster")
    status, told, errors = run(shared_daemon, *command)
    assert status == 0, errors
    assert told == wanted


def test_muster_run_starts_it(shared_daemon):
    command = [CLI, "run", "-n", "2", "--", sys.executable, DIGITS, "--steps", "20"]
    status, told, errors = run(shared_daemon, *command)
    assert status == 0, errors
    assert re.search(r"muster: [0-9.]+% right after 20 steps, begun at 0", told)


def test_training_goes_on_after_a_rank_was_killed(shared_daemon, tmp_path):
    options = ["--steps", "20", "--checkpoint", str(tmp_path / "saved"), "--kill-at", "10"]
    status, told, errors = run(shared_daemon, *RESTARTING, DIGITS, *options)
    assert status == 0, errors
    # Rank 0 saves step 10 while the other rank dies, and torchrun may end it before it has.
    assert re.search(r"begun at (9|10)$", told, re.MULTILINE), told


def losses(told):
    found = re.findall(r"loss ([0-9.]+)", told)
    assert found
    return [float(loss) for loss in found]


def test_a_transformer_has_the_losses_of_gloo_with_ddp_and_fsdp2(shared_daemon):
    steps = ["--steps", "6", "--save-every", "2"]
    wanted = pytest.approx(losses(run_over_gloo(shared_daemon, *TORCHRUN, LETTERS, *steps)), abs=2e-4)
    status, told, errors = run(shared_daemon, *TORCHRUN, LETTERS, *steps)
    assert status == 0, errors
    assert losses(told) == wanted
    command = [CLI, "run", "-n", "2", "--", sys.executable, LETTERS, *steps, "--shard"]
    status, told, errors = run(shared_daemon, *command)
    assert status == 0, errors
    assert losses(told) == wanted
    assert "muster, FSDP2: 6 steps, begun at 0" in told


def test_sharded_training_goes_on_from_its_last_saved_step(shared_daemon, tmp_path):
    steps = ["--steps", "6", "--save-every", "2", "--shard"]
    status, whole, errors = run(shared_daemon, *TORCHRUN, LETTERS, *steps)
    assert status == 0, errors
    options = [*steps, "--checkpoint", str(tmp_path / "saved"), "--kill-at", "5"]
    status, told, errors = run(shared_daemon, *RESTARTING, LETTERS, *options)
    assert status == 0, errors
    assert "6 steps, begun at 4" in told
    assert losses(told) == losses(whole)
