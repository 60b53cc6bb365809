"""What tests ask of a daemon of theirs, by its commands and by /proc. ``environment`` is that of its programs."""

import json
import os
import subprocess
import time
from pathlib import Path

PATIENCE_S = 60


def muster(environment, *words):
    run = subprocess.run(
        [os.environ["MUSTER_CLI"], *words],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return run.stdout


def status(environment):
    return json.loads(muster(environment, "status", "--json"))


def workers(environment):
    """The worker processes of the daemon."""
    daemon = status(environment)["pid"]
    children = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
    return [int(pid) for pid in children if b"--gpu-worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_process(pid):
    """False once its parent knows of its end. A driver may need a while to take a process apart."""
    return Path(f"/proc/{pid}").exists()


def eventually(look, wanted):
    deadline = time.monotonic() + PATIENCE_S
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == wanted
