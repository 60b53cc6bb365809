"""What Ray's scheduler, its timeline and its metrics know of the store."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import conftest
import muster
import muster.ray
import numpy as np
import pytest
import ray
from muster.ray import _gauges, _hooks, _reservation
from test_unchanged_scripts import output_of

pytestmark = pytest.mark.usefixtures("objects")


def here():
    return ray.get_runtime_context().get_node_id()


def rays(*command):
    """What a command of Ray's says about this cluster."""
    run = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *command],
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=conftest.PATIENCE_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_ray_status_shows_the_reservation():
    conftest.until(lambda: "of 256.00MiB reserved in placement groups" in rays("status"), lambda: rays("status"))


@ray.remote(num_cpus=0)
def runs():
    return True


def test_nothing_is_oversubscribed():
    reserved = _reservation.reservation_on(here())
    assert reserved["memory"] == muster.status()["memory_bytes"] == conftest.MEMORY
    left = int(ray.cluster_resources()["memory"]) - conftest.MEMORY
    conftest.until(lambda: ray.available_resources()["memory"] == left)
    too_much = runs.options(memory=left + 1).remote()
    assert ray.get(runs.options(memory=left).remote(), timeout=conftest.PATIENCE_S)
    assert ray.wait([too_much], timeout=0.5) == ([], [too_much])
    ray.cancel(too_much)


def test_ordinary_tasks_have_all_cpus_of_a_small_node():
    @ray.remote
    def meet(gate):
        return ray.get(gate.meet.remote())

    @ray.remote
    class Meeting:
        def __init__(self, size):
            self.left, self.all = size, asyncio.Event()

        async def meet(self):
            self.left -= 1
            if not self.left:
                self.all.set()
            await self.all.wait()
            return True

    cpus = int(ray.cluster_resources()["CPU"])
    meeting = Meeting.options(num_cpus=0).remote(cpus)
    assert ray.get([meet.remote(meeting) for _ in range(cpus)], timeout=conftest.PATIENCE_S) == [True] * cpus
    ray.kill(meeting)


@ray.remote
class Sampler:
    def ping(self):
        return here()


def test_actors_have_shares_of_the_store():
    left = _hooks.memory_of(_reservation.reservation_on(here())["group"])
    samplers = [Sampler.options(**muster.ray.share("100MiB")).remote() for _ in range(2)]
    assert ray.get([sampler.ping.remote() for sampler in samplers]) == [here()] * 2
    conftest.until(lambda: _hooks.left_on(here()).get(left) == 56 << 20)
    third = Sampler.options(**muster.ray.share("100MiB")).remote()
    waits = third.ping.remote()
    assert ray.wait([waits], timeout=0.5) == ([], [waits])
    ray.kill(samplers.pop())
    assert ray.get(waits, timeout=conftest.PATIENCE_S) == here()
    for sampler in [*samplers, third]:
        ray.kill(sampler)


def test_a_share_that_no_store_has():
    with pytest.raises(muster.Invalid, match=r"no node's store has 1 GiB; the largest has 256 MiB"):
        muster.ray.share("1GiB")
    with pytest.raises(muster.Invalid, match="is not a size"):
        muster.ray.share("much")


TOO_MUCH = """
import muster, muster.ray
import ray

ray.init(num_cpus=1, include_dashboard=False, _memory=200 << 20)
try:
    muster.ray.init(memory="300MiB")
except muster.OutOfMemory as error:
    print(error)
muster.ray.init(memory="64MiB")
print(muster.status()["memory_bytes"] >> 20, int(ray.available_resources()["memory"]) >> 20)
muster.ray.shutdown()
"""
STARTED = """
import muster.ray
import ray

muster.ray.init(num_cpus=16, memory="64MiB", include_dashboard=False)
print(ray.cluster_resources()["CPU"] - ray.available_resources()["CPU"])
muster.ray.shutdown()
"""


def test_more_than_ray_has_left_is_refused(tmp_path):
    said, left = output_of(TOO_MUCH, tmp_path).split("\n")
    assert "Ray has 200 MiB of 200 MiB of memory left on node" in said
    assert "Muster's daemon is to have 300 MiB" in said
    assert left == "64 136"


def test_of_a_large_cluster_that_init_starts_some_cpus_are_for_the_lanes(tmp_path):
    assert output_of(STARTED, tmp_path) == str(float(min(16 // 8, len(os.sched_getaffinity(0)))))


TIMELINE = """
import glob, json, subprocess, sys, time
import muster, muster.ray
import numpy as np
import ray

muster.ray.init(num_cpus=4, memory="64MiB", include_dashboard=False)


@ray.remote(num_cpus=0.5)
class Rank:
    def sum(self, rank):
        with muster.group("timeline", rank=rank, world_size=2) as group:
            return group.allreduce(np.ones(3)).result()[0]


@ray.remote
@muster.collective_input
def full(value):
    return np.full(3, value)


ranks = [Rank.remote() for _ in range(2)]
assert ray.get([rank.sum.remote(i) for i, rank in enumerate(ranks)]) == [2, 2]
assert muster.allreduce_refs([full.remote(1.0), full.remote(2.0)]).result(30)[0] == 3
assert muster.allreduce_refs([muster.put(np.ones(3))] * 3).result(30)[0] == 3
context = ray.get_runtime_context()


def shown():
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "timeline", "--address", context.gcs_address],
                   check=True, capture_output=True)
    file = max(glob.glob(context.get_temp_dir() + "/ray-timeline-*.json"))
    with open(file) as opened:
        return sorted(event["name"] for event in json.load(opened) if event["cat"] == "muster")


end = time.monotonic() + 60
while len(shown()) < 4 and time.monotonic() < end:
    pass
print(json.dumps(shown()))
muster.ray.shutdown()
"""


def test_the_command_ray_timeline_shows_each_collective(tmp_path):
    shown = json.loads(output_of(TIMELINE, tmp_path))
    assert shown == [
        *["allreduce in 'timeline'"] * 2,
        "allreduce of refs",
        "allreduce_refs of results of tasks",
    ]


def test_gauges(monkeypatch):
    told = {}

    class Gauge:
        def __init__(self, name, description, tag_keys):
            assert description
            assert tag_keys == ("node",)
            self.name = name

        def set_default_tags(self, tags):
            self.tags = tags

        def set(self, value):
            told[self.name] = value, self.tags

    monkeypatch.setattr(_gauges, "Gauge", Gauge)
    gauges = _gauges.Gauges("a node")
    ref = muster.put(np.ones(1000))
    status = muster.status()
    gauges.tell(status)
    assert told["muster_memory_budget_bytes"] == (conftest.MEMORY, {"node": "a node"})
    assert told["muster_memory_used_bytes"][0] >= ref.nbytes
    assert told["muster_objects"][0] == status["objects"] > 0
    assert {"muster_ops_done", "muster_ops_failed"} < told.keys()
