"""A cluster of two nodes on this machine, each with a daemon of its own."""

from __future__ import annotations

import json

import pytest
from test_unchanged_scripts import output_of

#: Prints what it saw, as JSON. ``other`` may be taken away, ``head`` not.
SCRIPT = """
import asyncio, gc, json, time
import numpy as np
import muster, muster.ray
import ray
from muster.ray import _hooks, _keepers, _reservation
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

OPTIONS = {"num_cpus": 2, "object_store_memory": 100 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **OPTIONS})
other = cluster.add_node(resources={"other": 1}, **OPTIONS)
muster.ray.init(cluster.address, memory="64MiB", idle_timeout=1)
head, other_id = ray.get_runtime_context().get_node_id(), other.node_id
names = {head: "head", other_id: "other"}
ON_OTHER, ON_HEAD = {"resources": {"other": 0.01}}, {"resources": {"node:__internal_head__": 0.01}}


def here():
    return ray.get_runtime_context().get_node_id()


@ray.remote
@muster.collective_input
def make(size):
    return np.ones(size)


@ray.remote
@muster.collective_input
def read(*arrays):
    return [np.frombuffer(here().encode(), np.uint8).copy(), sum(np.asarray(array).sum() for array in arrays)]


@ray.remote(num_cpus=0)
class Gate:
    def __init__(self):
        self.opened, self.came = asyncio.Event(), 0

    async def wait(self):
        self.came += 1
        await self.opened.wait()

    async def open(self):
        self.opened.set()

    async def waiting(self):
        return self.came


@ray.remote
@muster.collective_input
def computes(gate):
    ray.get(gate.wait.remote())
    return np.ones(3)


@ray.remote
def total(array):
    return float(np.asarray(array).sum())


@ray.remote
def submits(gate):
    # What this waits for is made and read on the head.
    ref = computes.options(**ON_HEAD).remote(gate)
    return ray.get(total.options(**ON_HEAD).remote(ref))


@ray.remote
def plain(*arrays):
    return here()


def ran_on(ref):
    return names[bytes(muster.ray.get(ref)[0]).decode()]


def until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def has_keeper(node):
    return f"muster on {node}" in [row["name"] for row in ray.util.list_named_actors(all_namespaces=True)]


def looked():
    # Waits while the other node's keeper looks whether it is needed, for longer than idle_timeout.
    looks = _keepers._find(other_id).looks
    end = ray.get(looks.remote()) + 5
    until(lambda: ray.get(looks.remote()) >= end)


def is_idle(node):
    told = autoscaler_pb2.GetClusterResourceStateReply()
    told.ParseFromString(_hooks.global_worker.gcs_client.get_cluster_resource_state())
    return any(row.node_id.hex() == node and row.status == 3 for row in told.cluster_resource_state.node_states)


def pid():
    return muster.status()["pid"]


seen = {}
seen["reserved"] = sorted(
    (names[node], _reservation.reservation_on(node)["memory"] >> 20) for node in (head, other_id)
)
pids = ray.get([ray.remote(pid).options(**where).remote() for where in (ON_HEAD, ON_OTHER)])
seen["daemons"] = len(set(pids))

large, small = make.options(**ON_OTHER).remote(100_000), make.options(**ON_HEAD).remote(10)
ray.wait([large, small], num_returns=2)
seen["marked"] = [ran_on(read.remote(large, small)) for _ in range(4)]
seen["total"] = float(muster.ray.get(read.remote(large, small))[1])
seen["near"] = names[ray.get(plain.options(scheduling_strategy=muster.ray.near(large, small)).remote())]
seen["nested"] = names[muster.ray.near({"x": [small]}).node_id]
affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(head, soft=False)
seen["the user's choice"] = ran_on(read.options(scheduling_strategy=affinity).remote(large))
never = make.options(resources={"nowhere": 1}).remote(1000)
seen["not there yet"] = muster.ray.near(never)
ray.cancel(never)

looked()
seen["with objects"] = has_keeper(other_id), is_idle(other_id)
del large, never
gc.collect()
until(lambda: not has_keeper(other_id) and is_idle(other_id))
seen["without"] = _reservation.reservation_on(other_id), has_keeper(head)
again = make.options(**ON_OTHER).remote(5)
seen["again"] = float(muster.ray.get(read.options(**ON_OTHER).remote(again))[1]), has_keeper(other_id)

del again
gc.collect()
gate = Gate.options(**ON_HEAD).remote()
running = [computes.options(**ON_OTHER).remote(gate), submits.options(**ON_OTHER).remote(gate)]
until(lambda: ray.get(gate.waiting.remote()) == 2)
looked()
ray.get(gate.open.remote())
seen["running"] = float(muster.ray.get(read.options(**ON_OTHER).remote(running[0]))[1]), ray.get(running[1])
seen["runs"] = ray.get(gate.waiting.remote())
again = make.options(**ON_OTHER).remote(5)
ray.wait([again])

cluster.remove_node(other)
until(lambda: not has_keeper(other_id))
left = lambda: ray.cluster_resources()["memory"] - ray.available_resources()["memory"]
until(lambda: left() == 64 << 20)
until(lambda: muster.ray.near(again) == "DEFAULT")  # it looks for nodes now and then
until(lambda: not _keepers.socket_on(other_id) and _reservation.reservation_on(other_id) is None)
print(json.dumps(seen))
muster.ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    return json.loads(output_of(SCRIPT, tmp_path_factory.mktemp("nodes")).splitlines()[-1])


def test_each_node_has_a_daemon_and_a_reservation(seen):
    assert seen["reserved"] == [["head", 64], ["other", 64]]
    assert seen["daemons"] == 2


def test_a_marked_task_runs_where_most_bytes_of_its_arguments_are(seen):
    assert seen["marked"] == ["other"] * 4
    assert seen["total"] == 100_010


def test_other_tasks_go_there_if_they_are_told(seen):
    assert seen["near"] == "other"
    assert seen["nested"] == "head"


def test_what_the_user_chose_stays(seen):
    assert seen["the user's choice"] == "head"


def test_nothing_is_waited_for(seen):
    assert seen["not there yet"] == "DEFAULT"


def test_a_node_is_busy_while_it_has_objects_and_idle_without(seen):
    assert seen["with objects"] == [True, False]
    assert seen["without"] == [None, True]
    assert seen["again"] == [5, True]


def test_a_daemon_stays_while_a_task_computes_or_its_submitter_waits(seen):
    assert seen["running"] == [3, 3]
    assert seen["runs"] == 2
