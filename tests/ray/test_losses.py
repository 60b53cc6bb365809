"""Results that are lost are made again."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import types
from pathlib import Path

import conftest
import muster
import numpy as np
import pytest
import ray
from muster._decorator import LOST
from muster.ray import _cluster, _keepers, _recovery, _refs, _tasks, collective
from ray._private import state
from test_tasks import Gate, Worker, full


@pytest.fixture(autouse=True)
def _each_begins_and_ends_empty(objects):
    """Nothing stays of what was made again."""


def kill_daemon():
    pid = _cluster.with_daemon(muster.status)["pid"]
    end = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([end], [], [], conftest.PATIENCE_S)[0]
    os.close(end)


@ray.remote
@muster.collective_input
def counted(path, *inputs):
    """Counts its runs in a file; adds up its inputs."""
    with Path(path).open("a") as runs:
        runs.write("x")
    return sum((np.asarray(x) for x in inputs), start=np.ones(4))


def runs_of(path):
    return len(path.read_text())


def test_a_result_is_made_again_when_the_daemon_was_lost(tmp_path):
    runs = tmp_path / "runs"
    ref = counted.remote(str(runs))
    other = counted.remote(str(runs))
    assert muster.ray.get(ref).tolist() == [1] * 4
    ray.wait([other])
    kill_daemon()
    assert muster.ray.get([ref, ref, other])[0].tolist() == [1] * 4
    assert runs_of(runs) == 4
    assert muster.ray.get(ref).tolist() == [1] * 4
    assert runs_of(runs) == 4


def test_inputs_are_made_again_first_and_only_once(tmp_path):
    low, high = tmp_path / "low", tmp_path / "high"
    base = counted.remote(str(low))
    both = [counted.remote(str(high), base) for _ in range(2)]
    ray.wait(both, num_returns=2)
    kill_daemon()
    work = muster.allreduce_refs(both)
    assert work.result(60).tolist() == [4] * 4
    assert runs_of(low) == 2
    assert runs_of(high) == 4


@ray.remote
class Meeting:
    """All who come wait for each other."""

    def __init__(self, size):
        self.missing = size
        self.all_are_here = asyncio.Event()

    async def come(self):
        self.missing -= 1
        if not self.missing:
            self.all_are_here.set()
        await self.all_are_here.wait()


@ray.remote(num_cpus=0.5)
@muster.collective_input
def meets_when_run_again(file, meeting):
    if Path(file).exists():
        ray.get(meeting.come.remote())
    Path(file).touch()
    return np.ones(3)


@pytest.mark.parametrize("through", ["get", "op"])
def test_results_that_are_lost_are_made_again_side_by_side(tmp_path, through):
    meeting = Meeting.remote(4)
    refs = [meets_when_run_again.remote(str(tmp_path / str(i)), meeting) for i in range(4)]
    ray.wait(refs, num_returns=4)
    kill_daemon()
    if through == "get":
        assert [x.tolist() for x in muster.ray.get(refs, timeout=conftest.PATIENCE_S)] == [[1] * 3] * 4
    else:
        assert muster.allreduce_refs(refs).result(conftest.PATIENCE_S).tolist() == [4] * 3
    ray.kill(meeting)


def test_a_daemon_that_ends_while_values_are_read_is_a_loss(monkeypatch, tmp_path):
    runs = tmp_path / "runs"
    ref = counted.remote(str(runs))
    ray.wait([ref])
    settled, ended = _recovery.settled, []

    def end_then(*arguments):
        found = settled(*arguments)
        if not ended:
            ended.append(kill_daemon())
        return found

    monkeypatch.setattr(_recovery, "settled", end_then)
    assert muster.ray.get([ref, ref])[1].tolist() == [1] * 4
    assert runs_of(runs) == 2


def test_a_task_that_can_t_be_retried_is_lost(tmp_path):
    runs = tmp_path / "runs"
    ref = counted.options(max_retries=0).remote(str(runs))
    put = muster.put(np.ones(3))
    boxed = ray.put([put])
    ray.wait([ref])
    kill_daemon()
    with pytest.raises((muster.ObjectLost, muster.DaemonRestarted, muster.DaemonUnavailable)):
        muster.ray.get(ref)
    assert muster.ray.get(full.remote(1.0, 2)).tolist() == [1, 1]
    (lost,) = ray.get(boxed)
    assert repr(lost) == "<muster.Ref, lost>"
    with pytest.raises((muster.ObjectLost, muster.DaemonRestarted)):
        lost.get()
    assert runs_of(runs) == 1


def test_methods_of_actors_are_retried_if_they_may():
    worker = Worker.remote()
    ref = worker.gradient.options(max_task_retries=1).remote(3)
    ray.wait([ref])
    kill_daemon()
    assert muster.ray.get(ref).tolist() == [0, 3, 6, 9]
    ray.kill(worker)


def test_results_do_not_keep_what_they_were_made_of(tmp_path, objects):
    ref = counted.remote(str(tmp_path / "0"))
    for step in range(1, 8):
        ref = counted.remote(str(tmp_path / str(step)), ref)
    assert muster.ray.get(ref).tolist() == [8] * 4
    conftest.until(lambda: len(objects()) == 1, objects)

    def runs():
        return [runs_of(tmp_path / str(step)) for step in range(8)]

    # A worker that last used the daemon before this one may have lost its first result.
    before = runs()
    kill_daemon()
    assert muster.ray.get(ref).tolist() == [8] * 4
    assert all(now > earlier for now, earlier in zip(runs(), before))


@pytest.fixture
def _without_collecting_garbage():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_without_collecting_garbage")
def test_what_was_made_again_stays_no_longer_than_what_was_not(tmp_path, objects):
    refs = [counted.remote(str(tmp_path / "0"))]
    for step in range(1, 4):
        refs.append(counted.remote(str(tmp_path / str(step)), refs[-1]))
    ray.wait(refs, num_returns=4)
    kill_daemon()
    assert [array[0] for array in muster.ray.get(refs)] == [1, 2, 3, 4]
    del refs
    conftest.until(lambda: not objects(), objects)


@pytest.mark.usefixtures("_without_collecting_garbage")
def test_an_error_keeps_no_more_than_who_has_it(tmp_path, objects):
    ref = counted.options(max_retries=0).remote(str(tmp_path / "runs"))
    other = counted.remote(str(tmp_path / "other"))
    ray.wait([ref, other], num_returns=2)
    kill_daemon()
    with pytest.raises((muster.ObjectLost, muster.DaemonRestarted, muster.DaemonUnavailable)):
        muster.ray.get({"made again": other, "lost": ref})
    del ref, other
    conftest.until(lambda: not objects(), objects)


@ray.remote
@muster.collective_input
def doubled(array):
    return array * 2.0


def test_a_result_is_made_again_of_what_was_given_then():
    buffer = np.ones(4)
    refs = []
    for value in range(3):
        buffer[:] = value
        refs.append(doubled.remote(buffer))
    ray.wait(refs, num_returns=3)
    kill_daemon()
    assert [array[0] for array in muster.ray.get(refs)] == [0, 2, 4]


def test_an_error_of_the_task_s_own_is_no_loss(tmp_path):
    @ray.remote
    @muster.collective_input
    def uses_a_freed_ref(path):
        with Path(path).open("a") as runs:
            runs.write("x")
        ref = muster.put(np.ones(3))
        ref.free()
        return ref.get()

    runs = tmp_path / "runs"
    with pytest.raises(muster.ObjectLost, match="was freed"):
        muster.ray.get(uses_a_freed_ref.remote(str(runs)))
    assert runs_of(runs) == 1


@pytest.fixture
def keeper_sleeps():
    """Stops the keeper until the function that this returns is called."""
    keeper = _keepers._find(ray.get_runtime_context().get_node_id())
    pid = state.actors(keeper._actor_id.hex())["Pid"]
    os.kill(pid, signal.SIGSTOP)
    yield lambda: os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGCONT)


@ray.remote
class Two:
    """An async actor, one of whose methods is marked."""

    @muster.collective_input
    async def gradient(self, scale):
        return np.ones(3) * scale

    async def plain(self):
        return "went on"


def test_an_async_actor_goes_on_while_a_daemon_is_started_for_one_method(keeper_sleeps):
    gate, actor = Gate.remote(), Two.remote()
    assert muster.ray.get(actor.gradient.remote(1.0)).tolist() == [1] * 3
    waiting = actor.gradient.options(max_task_retries=1).remote(gate.wait.remote(2.0))
    kill_daemon()
    ray.get(gate.open.remote(), timeout=conftest.PATIENCE_S)
    seen = [ray.get(actor.plain.remote(), timeout=conftest.PATIENCE_S) for _ in range(20)]
    assert seen == ["went on"] * 20
    assert not ray.wait([waiting], timeout=0)[0]
    keeper_sleeps()
    assert muster.ray.get(waiting, timeout=conftest.PATIENCE_S).tolist() == [2] * 3


@ray.remote
class Pair:
    """A rank of two in a group of ``muster.ray.collective``."""

    def __init__(self, rank):
        self.rank = rank

    def make(self):
        collective.init_collective_group(2, self.rank, "muster", "pair")

    def leave(self):
        collective.destroy_collective_group("pair")

    def total(self):
        tensor = np.ones(3)
        collective.allreduce(tensor, "pair")
        return tensor.tolist()


def test_a_group_that_has_ended_with_its_daemon_is_told_and_can_be_made_anew():
    pair = [Pair.remote(rank) for rank in range(2)]
    ray.get([rank.make.remote() for rank in pair])
    assert ray.get([rank.total.remote() for rank in pair]) == [[2] * 3] * 2
    kill_daemon()
    for rank in pair * 2:  # at the first call that misses the daemon, and later
        with pytest.raises(
            muster.DaemonRestarted, match=r"'pair' was in has ended.*destroy_collective_group\('pair'\)"
        ):
            ray.get(rank.total.remote(), timeout=conftest.PATIENCE_S)
    ray.get([rank.leave.remote() for rank in pair])
    ray.get([rank.make.remote() for rank in pair])
    assert ray.get([rank.total.remote() for rank in pair]) == [[2] * 3] * 2
    for rank in pair:
        ray.kill(rank)


@ray.remote
class Seated:
    def total(self):
        return muster.ray.group("ends").allreduce(np.ones(2)).result().tolist()


def test_a_group_of_actors_that_has_ended_with_its_daemon_is_told():
    actors = [Seated.remote() for _ in range(2)]
    group = muster.ray.create_group(actors, "ends")
    assert ray.get([actor.total.remote() for actor in actors]) == [[2] * 2] * 2
    kill_daemon()
    for actor in actors:
        with pytest.raises(muster.DaemonRestarted, match="make the group anew"):
            ray.get(actor.total.remote(), timeout=conftest.PATIENCE_S)
    group.destroy()
    muster.ray.create_group(actors, "ends")
    assert ray.get([actor.total.remote() for actor in actors]) == [[2] * 2] * 2
    for actor in actors:
        ray.kill(actor)


def test_a_method_that_began_after_the_daemon_s_end_has_a_lost_result():
    gate, worker = Gate.remote(), Worker.remote()
    ray.get(worker.pid.remote())
    lost = worker.gradient.remote(gate.wait.remote(2.0))
    again = worker.gradient.options(max_task_retries=1).remote(gate.wait.remote(2.0))
    kill_daemon()
    ray.get(gate.open.remote(), timeout=conftest.PATIENCE_S)
    with pytest.raises(muster.ObjectLost, match=r"the daemon ended before the call was over.*max_task_retries"):
        muster.ray.get(lost)
    assert muster.ray.get(again).tolist() == [0, 2, 4, 6]
    ray.kill(gate)
    ray.kill(worker)


def test_a_daemon_that_ends_while_a_result_is_passed_on_is_a_loss():
    call = types.SimpleNamespace(token="ray 1", submitted_on=_refs.here(), marker=lambda: None)
    kept = _tasks.Kept(muster.put(np.ones(3)), call)
    kill_daemon()
    make, arguments = kept.__reduce__()
    with pytest.raises(muster.DaemonUnavailable) as told:
        make(*arguments).get()
    assert getattr(told.value, LOST)
    assert muster.put(np.ones(1)).nbytes == 8  # the next daemon


@ray.remote
class Putter:
    def put(self):
        return muster.put(np.ones(3))


def test_put_starts_the_daemon_again():
    putter = Putter.remote()
    assert ray.get(putter.put.remote()).get().tolist() == [1] * 3
    kill_daemon()
    assert ray.get(putter.put.remote()).get().tolist() == [1] * 3
    kill_daemon()
    assert muster.put(np.ones(2)).get().tolist() == [1] * 2
    ray.kill(putter)


@ray.remote(num_cpus=4)
def loses_what_it_waits_for():
    ref = full.remote(3.0, 3)
    ray.wait([ref])
    kill_daemon()
    return muster.allreduce_refs([ref]).result(conftest.PATIENCE_S)[0]


def test_what_a_task_waits_for_is_made_again_with_its_cpus():
    assert ray.get(loses_what_it_waits_for.remote()) == 3
