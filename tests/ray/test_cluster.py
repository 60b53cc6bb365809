"""Processes, jobs and daemons of one cluster."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import conftest
import muster
import muster.ray
import numpy as np
import pytest
import ray
from muster.ray import _hooks, _keepers, _pending, _reservation, _sweep
from test_losses import kill_daemon
from test_tasks import Gate, full
from test_unchanged_scripts import output_of

OTHER_JOB = """
import muster, muster.ray
import numpy as np
import ray

muster.ray.init()
print(muster.status()["memory_bytes"] >> 20, muster.put(np.ones(2)).get().sum())
muster.ray.shutdown()
"""
AT_THE_END = """
import muster, muster.ray
import numpy as np
import ray, threading


@ray.remote
@muster.collective_input
def endless():
    threading.Event().wait()


try:
    muster.ray.init(memory="1GiB")
except muster.Invalid:
    print(ray.is_initialized())
muster.ray.init()
work = muster.allreduce_refs([endless.remote()])
muster.ray.shutdown()
try:
    work.result()
except muster.Invalid as error:
    print(error)
"""
ONE_CLUSTER_AFTER_THE_OTHER = """
import muster, muster.ray
import numpy as np
import os
import ray

options = {"num_cpus": 1, "include_dashboard": False, "runtime_env": {"env_vars": {"A": "1"}}}
for shutdown in (ray.shutdown, muster.ray.shutdown):
    muster.ray.init(memory="32MiB", **options)
    node = ray.get_runtime_context().get_node_id()[:16]
    print(muster.put(np.ones(2)).get().sum(), node in os.environ["MUSTER_SOCKET"])
    shutdown()
"""
HOOKED = """
import muster
import numpy as np
import os
import ray


@ray.remote
def put():
    return muster.put(np.ones(2)).get().sum(), os.environ["MUSTER_SOCKET"]


ray.init(num_cpus=1, include_dashboard=False)
total, socket = ray.get(put.remote())
driver = muster.put(np.ones(3)).get().sum()
print(total, driver, socket == os.environ["MUSTER_SOCKET"], ray.nodes()[0]["NodeID"][:16] in socket)
import muster.ray
muster.ray.shutdown()
"""


@pytest.fixture
def _may_lose_objects(objects):
    yield
    conftest.kept_for_good.update(row["id"] for row in objects())


def here():
    return ray.get_runtime_context().get_node_id()


def test_workers_with_another_environment_use_the_node_s_daemon(objects, tmp_path):
    @ray.remote(runtime_env={"env_vars": {"XDG_RUNTIME_DIR": str(tmp_path)}})
    def look():
        assert os.environ["XDG_RUNTIME_DIR"] == str(tmp_path)
        return muster.status()["pid"], float(muster.put(np.ones(2)).get().sum())

    assert ray.get(look.remote()) == (muster.status()["pid"], 2)
    assert list(tmp_path.iterdir()) == []


def test_under_the_hook_every_process_uses_the_cluster_s_daemon(tmp_path):
    assert output_of(HOOKED, tmp_path, RAY_RUNTIME_ENV_HOOK="muster.ray.hook") == "2.0 3.0 True True"


def test_a_process_uses_one_cluster_after_the_other(tmp_path):
    assert output_of(ONE_CLUSTER_AFTER_THE_OTHER, tmp_path) == "2.0 True\n2.0 True"


def test_a_job_that_ends_leaves_the_others_their_daemons(objects, tmp_path):
    ref = full.remote(5.0, 3)
    ray.wait([ref])
    pid = muster.status()["pid"]
    address = ray.get_runtime_context().gcs_address
    assert output_of(OTHER_JOB, tmp_path, RAY_ADDRESS=address) == "256 2.0"
    assert muster.status()["pid"] == pid
    assert muster.ray.get(ref).tolist() == [5] * 3


def test_a_job_that_begins_waits_for_one_that_may_be_ending_the_daemons(objects, tmp_path):
    ending = _sweep.ENDING + ray.get_runtime_context().get_job_id().encode()
    _hooks.kv_put(ending, b"")
    _hooks.kv_put(_sweep.ENDING + b"ffffffff", b"")  # of a job that died: nobody waits for it
    before = set(_hooks.kv_keys(_sweep.JOBS))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begins = pool.submit(output_of, OTHER_JOB, tmp_path, RAY_ADDRESS=ray.get_runtime_context().gcs_address)
        conftest.until(lambda: set(_hooks.kv_keys(_sweep.JOBS)) - before or begins.done())
        assert not begins.done()
        _hooks.kv_delete(ending)
        assert begins.result(conftest.PATIENCE_S) == "256 2.0"
    assert _hooks.kv_keys(_sweep.ENDING) == []


SHUT_DOWN = """
import asyncio, threading
import muster, muster.ray
import ray


@ray.remote
@muster.collective_input
def never():
    threading.Event().wait()


def said(wait):
    try:
        return wait()
    except muster.Invalid as error:
        return error.message


async def awaited(work):
    return await work


for shutdown in muster.ray.shutdown, ray.shutdown:
    muster.ray.init(num_cpus=1, include_dashboard=False)
    works = [muster.allreduce_refs([never.remote()]) for _ in range(2)]
    shutdown()
    print(said(works[0].result))
    print(said(lambda: asyncio.run(awaited(works[1]))))
"""


def test_who_waits_for_tasks_hears_of_the_end_of_ray(tmp_path):
    told = output_of(SHUT_DOWN, tmp_path)
    assert told.splitlines() == ["Ray was shut down before allreduce_refs had begun"] * 4


def test_a_job_that_fails_to_begin_and_one_that_does_not_wait(objects, tmp_path):
    told = output_of(AT_THE_END, tmp_path, RAY_ADDRESS=ray.get_runtime_context().gcs_address)
    assert told == (
        "False\nRay was shut down before allreduce_refs had begun (hint: take the result before muster.ray.shutdown())"
    )


WITH_A_TOKEN = """
import muster, muster.ray
import numpy as np
import os
import ray


@ray.remote
@muster.collective_input
def full(value):
    return np.full(3, value)


muster.ray.init(num_cpus=2, memory="64MiB", include_dashboard=False)
print(os.environ["RAY_AUTH_MODE"], muster.allreduce_refs([full.remote(1.0), full.remote(2.0)]).result(60)[0])
muster.ray.shutdown()
"""
OF_ANOTHER_CLUSTER = """
import os, pickle
import muster, muster.ray
import numpy as np

muster.ray.init(num_cpus=1, memory="64MiB", include_dashboard=False)
ref = pickle.loads(bytes.fromhex(os.environ["PICKLED"]))
print(ref.get())  # on the same machine, it can be read
try:
    muster.allreduce_refs([ref, muster.put(np.ones(3))]).result(60)
except muster.Invalid as error:
    print(error)
muster.ray.shutdown()
"""


def test_a_cluster_with_token_authentication(tmp_path):
    assert output_of(WITH_A_TOKEN, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 32) == "token 3.0"


@pytest.mark.usefixtures("_may_lose_objects")
def test_a_ref_of_another_cluster_is_told(tmp_path):
    ref = muster.put(np.ones(3))
    value, error = output_of(OF_ANOTHER_CLUSTER, tmp_path, PICKLED=ray.cloudpickle.dumps(ref).hex()).split("\n")
    assert value == "[1. 1. 1.]"
    assert error.startswith("a ref belongs to another connection than the op: ")
    assert os.environ["MUSTER_SOCKET"] in error
    assert error.endswith("(hint: use refs and groups of one daemon)")


MEETS_ANOTHER_DAEMON = """
import muster, muster.ray
import ray
from muster.ray._folders import make_folder, sockets
from test_versions import ANSWERS, pretender_at

ray.init(num_cpus=1, include_dashboard=False)
path = sockets() / f"{ray.get_runtime_context().get_node_id()[:16]}.sock"
make_folder(path.parent)
for name in "an older daemon", "a newer daemon", "no daemon":
    answer, fds, error, what = ANSWERS[name]
    with pretender_at(str(path), answer, fds):
        try:
            muster.ray.init(memory="64MiB")
        except muster.Error as told:
            print(name, type(told).__name__ == error, what in str(told), told.hint)
    path.unlink()
muster.ray.init(memory="64MiB")
print(muster.status()["memory_bytes"] >> 20)
muster.ray.shutdown()
"""


def test_a_daemon_of_another_version_is_told(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parents[1] / "chaos"), *sys.path[1:], os.environ["PYTHONPATH"]])
    assert output_of(MEETS_ANOTHER_DAEMON, tmp_path, PYTHONPATH=path).splitlines() == [
        "an older daemon True True a hint",
        "a newer daemon True True install the same version of Muster on both sides",
        "no daemon True True ",
        "64",
    ]


def test_ray_client_is_told():
    with pytest.raises(muster.Invalid, match=r"ray://10.0.0.1:10001.*Ray Client.*on a node of the cluster"):
        muster.ray.init("ray://10.0.0.1:10001")


OF_A_JOB_CONFIG = """
import os, sys
import muster.ray
import ray


@ray.remote
def look():
    return os.environ.get("GIVEN"), "muster.ray" in sys.modules


config = ray.job_config.JobConfig(runtime_env={"env_vars": {"GIVEN": "by the config"}})
muster.ray.init(num_cpus=1, memory="64MiB", include_dashboard=False, job_config=config)
print(ray.get(look.remote()))
muster.ray.shutdown()
"""


def test_the_environment_of_a_job_config_stays(tmp_path):
    assert output_of(OF_A_JOB_CONFIG, tmp_path) == "('by the config', True)"


def test_the_hook_leaves_the_environment_that_it_is_given():
    given = {"env_vars": {"A": "1"}}
    muster.ray.hook(given)["env_vars"]["B"] = "2"
    assert given == {"env_vars": {"A": "1"}}


def keeper():
    return ray.get_actor(f"muster on {here()}", namespace="muster")


@pytest.mark.usefixtures("_may_lose_objects")
def test_a_keeper_that_is_restarted_has_its_reservation(cluster):
    before = _reservation.reservation_on(here())
    pid = muster.status()["pid"]
    ray.kill(keeper(), no_restart=False)
    assert _keepers.start(here()) == os.environ["MUSTER_SOCKET"]
    assert _reservation.reservation_on(here()) == before
    assert muster.status()["pid"] == pid


@pytest.mark.usefixtures("_may_lose_objects")
def test_a_new_keeper_knows_the_memory():
    before = _reservation.reservation_on(here())
    ray.kill(keeper())
    kill_daemon()
    assert muster.ray.get(full.remote(2.0, 2)).tolist() == [2, 2]
    assert muster.status()["memory_bytes"] == conftest.MEMORY
    after = _reservation.reservation_on(here())
    assert after["memory"] == before["memory"]
    assert after["group"] != before["group"]
    total = ray.cluster_resources()["memory"]
    conftest.until(lambda: ray.available_resources()["memory"] == total - conftest.MEMORY)


@ray.remote
@muster.collective_input
def slow_the_second_time(file, gate):
    if os.path.exists(file):  # noqa: PTH110 (a string is an argument that can be kept)
        ray.get(gate.wait.remote())
    with open(file, "a"):  # noqa: PTH123
        return np.ones(3)


@ray.remote
@muster.collective_input
def more(x):
    return np.asarray(x) + 1


@pytest.mark.usefixtures("_may_lose_objects")
def test_the_timeout_of_get_holds_while_lost_results_are_made_again(tmp_path):
    gate = Gate.remote()
    base = slow_the_second_time.remote(str(tmp_path / "ran"), gate)
    ref = more.remote(base)
    ray.wait([ref])
    kill_daemon()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        gets = [pool.submit(muster.ray.get, x, timeout=2) for x in (ref, ref, base)]
        for got in gets:
            with pytest.raises(ray.exceptions.GetTimeoutError):
                got.result(conftest.PATIENCE_S)
    ray.get(gate.open.remote())
    assert muster.ray.get(ref, timeout=conftest.PATIENCE_S).tolist() == [2] * 3
    ray.kill(gate)


@pytest.mark.usefixtures("_may_lose_objects")
def test_recoveries_that_wait_hold_no_other_op_up(tmp_path, monkeypatch):
    for pool in ("_starters", "_recoverers"):
        monkeypatch.setattr(_pending, pool, concurrent.futures.ThreadPoolExecutor(1))
    gate = Gate.remote()
    base = slow_the_second_time.remote(str(tmp_path / "ran"), gate)
    refs = [base, more.remote(base), full.remote(1.0, 3)]
    ray.wait(refs, num_returns=3)
    kill_daemon()
    waiting = [muster.allreduce_refs([ref]) for ref in (*refs[:2], *refs[:2])]
    assert muster.allreduce_refs([refs[2]]).result(conftest.PATIENCE_S).tolist() == [1] * 3
    assert muster.allreduce_refs([full.remote(2.0, 3)]).result(conftest.PATIENCE_S).tolist() == [2] * 3
    assert not any(work.done() for work in waiting)
    ray.get(gate.open.remote())
    assert [work.result(conftest.PATIENCE_S)[0] for work in waiting] == [1, 2, 1, 2]
    ray.kill(gate)


def test_a_ray_that_is_too_old_is_told(tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text('__version__ = "2.9.0"\n')
    script = """
        try:
            import muster.ray
        except __import__("muster").Invalid as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])},
        capture_output=True,
        text=True,
        timeout=conftest.PATIENCE_S,
        check=True,
    )
    assert run.stdout.startswith("Ray 2.9.0 lacks what Muster needs: ")
    assert "(hint: install a Ray that Muster knows, 2.58 to 2.60: pip install 'ray>=2.58'" in run.stdout


def test_a_ray_that_lacks_something_is_told(monkeypatch):
    monkeypatch.delattr(ray._private.state, "jobs")
    with pytest.raises(muster.Invalid, match=rf"Ray {ray.__version__} lacks what Muster needs: .*state\.jobs.*newer"):
        _hooks.check()
