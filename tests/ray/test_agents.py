"""What needs Ray's dashboard and agents (``pip install "ray[default]"``): submitted jobs, and exported metrics."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import conftest
import pytest

HOOKED = """
import os

def hook():
    os.environ["HOOKED"] = "by the job's own hook"
"""
JOB = """
import os
import muster, muster.ray
import numpy as np
import ray


@ray.remote
@muster.collective_input
def full(value):
    return np.full(3, value)


@ray.remote
def environment():
    return os.environ.get("HOOKED"), os.environ.get("GIVEN")


muster.ray.init(memory="64MiB")
print("sum", muster.allreduce_refs([full.remote(1.0), full.remote(2.0)]).result(60)[0])
print(ray.get(environment.remote()))
muster.ray.shutdown()
"""
MEASURED = """
import time, urllib.request
import muster, muster.ray
import numpy as np
import ray

muster.ray.init(memory="64MiB")
ref = muster.put(np.ones(1000))
port = ray.nodes()[0]["MetricsExportPort"]
address = f"http://{ray.nodes()[0]['NodeManagerAddress']}:{port}/metrics"
end, text = time.monotonic() + 60, ""
while "ray_muster_objects" not in text and time.monotonic() < end:
    text = urllib.request.urlopen(address, timeout=30).read().decode()
print("\\n".join(line for line in text.splitlines() if line.startswith("ray_muster")))
print(ray.get_runtime_context().get_node_id())
muster.ray.shutdown()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def dashboard():
    """A cluster of its own. Returns where its dashboard is."""
    address = f"http://127.0.0.1:{free_port()}"
    folder = Path(tempfile.mkdtemp(prefix="r"))  # paths of sockets in it have to be short
    log = folder / "log"
    command = ["start", "--head", "--block", "--num-cpus=2", "--port=0", "--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0"]
    command += [f"--dashboard-port={address.rpartition(':')[2]}", f"--temp-dir={folder}", "--disable-usage-stats"]
    with log.open("w") as opened:
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *command],
            env=without_a_cluster(),
            stdout=opened,
            stderr=opened,
            start_new_session=True,
        )

    def is_up():
        assert head.poll() is None, log.read_text()
        try:
            return bool(urllib.request.urlopen(f"{address}/api/version", timeout=5).read())
        except urllib.error.HTTPError:
            return True  # it wants a token
        except OSError:
            return False

    try:
        conftest.until(is_up, log.read_text)
        yield address
    finally:
        head.terminate()
        head.wait(conftest.PATIENCE_S)
        shutil.rmtree(folder, ignore_errors=True)


def without_a_cluster():
    """The environment of processes that this cluster's own variables must not reach. They need a token, as by default
    in newer versions of Ray."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("MUSTER_SOCKET", "RAY_ADDRESS")}
    return {**inherited, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32}


def told_by_job(dashboard, folder, script, **runtime_env):
    """Submits a script as a job, and returns what it prints."""
    path = folder / "job.py"
    path.write_text(script)
    command = ["job", "submit", "--address", dashboard, "--runtime-env-json", json.dumps(runtime_env)]
    run = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *command, "--", sys.executable, str(path)],
        env=without_a_cluster(),
        capture_output=True,
        text=True,
        timeout=3 * conftest.PATIENCE_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_a_submitted_job(dashboard, tmp_path):
    told = told_by_job(dashboard, tmp_path, JOB, env_vars={"GIVEN": "yes"})
    assert "sum 3.0\n(None, 'yes')\n" in told


def test_a_submitted_job_keeps_its_own_setup_hook(dashboard, tmp_path):
    (tmp_path / "own_hook.py").write_text(HOOKED)
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    variables = {"GIVEN": "yes", "PYTHONPATH": path}
    told = told_by_job(dashboard, tmp_path, JOB, env_vars=variables, worker_process_setup_hook="own_hook.hook")
    assert "sum 3.0\n(\"by the job's own hook\", 'yes')\n" in told


def test_metrics_are_exported(dashboard, tmp_path):
    told = told_by_job(dashboard, tmp_path, MEASURED)
    found = dict(re.findall(r"^ray_(muster_\w+){[^\n]*} (\S+)$", told, re.MULTILINE))
    assert float(found["muster_memory_budget_bytes"]) == 64 << 20
    assert float(found["muster_memory_used_bytes"]) >= 8000
    assert float(found["muster_objects"]) == 1
    assert found.keys() >= {"muster_ops_done", "muster_ops_failed"}
