"""Scripts that were written for Ray alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PATIENCE_S = 400
#: After the documentation of ray.util.collective: only the backend's name differs.
COLLECTIVE = """
import numpy as np
import ray
import ray.util.collective as collective


@ray.remote(num_cpus=0.5)
class Worker:
    def __init__(self):
        self.send = np.ones(4, dtype=np.float32)
        self.recv = np.zeros(4, dtype=np.float32)

    def setup(self, world_size, rank):
        collective.init_collective_group(world_size, rank, BACKEND, "default")
        return True

    def compute(self):
        collective.allreduce(self.send, "default")
        return self.send.tolist()

    def destroy(self):
        collective.destroy_collective_group("default")


ray.init(num_cpus=2, include_dashboard=False)
workers = [Worker.remote() for _ in range(2)]
ray.get([w.setup.remote(2, i) for i, w in enumerate(workers)])
print(ray.get([w.compute.remote() for w in workers]))
ray.get([w.destroy.remote() for w in workers])
"""
HOOKED = """
import ray


def own_hook():
    import os

    os.environ["OWN"] = "was here"


@ray.remote
def look():
    import os
    import sys

    return os.environ.get("OWN"), "muster.ray" in sys.modules


ray.init(num_cpus=1, include_dashboard=False, runtime_env={"worker_process_setup_hook": own_hook})
print(ray.get(look.remote()))
"""

#: Without the hook, workers know the transport by an import that Ray makes when it starts them.
PRELOADED = """
import os

import muster.ray
import ray
import torch


@ray.remote(max_restarts=1, max_task_retries=1)
class Model:
    @ray.method(tensor_transport="muster")
    def gradient(self, value):
        return torch.full((3,), float(value))

    def total(self, tensor):
        return float(tensor.sum())

    def end(self):
        if not ray.get_runtime_context().was_current_actor_reconstructed:
            os._exit(1)


ray.init(num_cpus=2, include_dashboard=False)
a, b = Model.remote(), Model.remote()
print(ray.get(b.total.remote(a.gradient.remote(1))))
ray.get(a.end.remote())
print(ray.get(b.total.remote(a.gradient.remote(2))))
"""


def output_of(script, folder, **environment):
    path = folder / "script.py"
    path.write_text(script)
    inherited = {name: value for name, value in os.environ.items() if name != "MUSTER_SOCKET"}
    run = subprocess.run(
        [sys.executable, str(path)],
        env={**inherited, "RAY_ADDRESS": "local", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    # Ray may tell on the same stream that a worker died.
    return "\n".join(line for line in run.stdout.strip().splitlines() if "(raylet)" not in line)


@pytest.mark.parametrize(
    ("script", "environment"),
    [
        (COLLECTIVE.replace("BACKEND", '"muster"'), {"RAY_RUNTIME_ENV_HOOK": "muster.ray.hook"}),
        (COLLECTIVE.replace("BACKEND", '"gloo"').replace("ray.util.collective", "muster.ray.collective"), {}),
        (
            COLLECTIVE.replace("BACKEND", '"muster"')
            .replace("import ray\n", "import ray, muster.ray\n", 1)
            .replace("ray.init(", "muster.ray.init("),
            {},
        ),
    ],
    ids=["the backend", "the import", "init"],
)
def test_one_line_is_changed(tmp_path, script, environment):
    assert output_of(script, tmp_path, **environment) == "[[2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]]"


def test_a_hook_of_the_user_s_own_is_called_too(tmp_path):
    assert output_of(HOOKED, tmp_path, RAY_RUNTIME_ENV_HOOK="muster.ray.hook") == "('was here', True)"


def test_restarted_actors_have_the_transport_by_an_import(tmp_path):
    assert output_of(PRELOADED, tmp_path, RAY_preload_python_modules="muster.ray") == "3.0\n6.0"
