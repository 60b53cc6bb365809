"""Groups whose seats are in actors, which Ray may restart."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import conftest
import muster
import muster.ray
import numpy as np
import pytest
import ray
from muster.ray import _hooks, _seats

pytestmark = pytest.mark.usefixtures("objects")


@ray.remote(num_cpus=0.5, max_restarts=-1, max_task_retries=-1)
class Trainer:
    def __init__(self, rank, folder):
        self.rank = rank
        self.folder = Path(folder)
        self.weights = np.zeros(1000)

    def note(self, what):
        with (self.folder / f"{self.rank}").open("a") as notes:
            notes.write(f"{what}\n")

    def train(self, name, steps, die_at=None, after=False):
        """Sums what depends on rank and step. Dies once at a step, before the op or when it is over."""
        self.note("run")
        group = muster.ray.group(name)
        weights = np.zeros(1000)
        for step in range(steps):
            dies = step == die_at and not (self.folder / "died").exists()
            if dies and not after:
                self.die()
            weights += group.allreduce(np.full(1000, np.sin(self.rank + 10 * step)), op="mean").result()
            if dies and after:
                self.die()
        group.barrier().result()
        return weights

    def die(self):
        (self.folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def pid(self):
        return os.getpid()

    def send(self, name):
        muster.ray.group(name).send(np.ones(1), dst=1).result()

    def keyed(self, name, key):
        """Calls an op that has no key of its own first."""
        group = muster.ray.group(name)
        return group.allreduce(np.ones(1)).result()[0], group.allreduce(np.full(1, 7.0), key=key).result()[0]

    def leave(self, name):
        muster.ray.group(name).leave()

    def seat(self, name):
        group = muster.ray.group(name)
        return group.rank, group.world_size, group is muster.ray.group(name)


def weights_of(steps, ranks=4):
    total = np.zeros(1000)
    for step in range(steps):
        arrays = [np.full(1000, np.sin(rank + 10 * step)) for rank in range(ranks)]
        total += (arrays[0] + arrays[1] + arrays[2] + arrays[3]) / ranks
    return total


@pytest.fixture
def trainers(tmp_path):
    trainers = [Trainer.remote(rank, str(tmp_path)) for rank in range(4)]
    yield trainers
    for trainer in trainers:
        ray.kill(trainer)


def runs_of(folder, rank):
    return (folder / str(rank)).read_text().count("run")


def test_seats_are_the_actors(trainers):
    group = muster.ray.create_group(trainers, "seats")
    assert repr(group) == "<muster.ray.ActorGroup 'seats' of 4>"
    assert ray.get([trainer.seat.remote("seats") for trainer in trainers]) == [(i, 4, True) for i in range(4)]
    got = ray.get([trainer.train.remote("seats", 3) for trainer in trainers])
    for weights in got:
        np.testing.assert_array_equal(weights, weights_of(3))
    with pytest.raises(muster.Invalid, match="there is a group 'seats' of actors already"):
        muster.ray.create_group(trainers, "seats")
    group.destroy()


@pytest.mark.parametrize("after", [False, True])
def test_an_actor_that_is_killed_in_training_changes_no_bit(trainers, tmp_path, after):
    name = f"killed {after}"
    group = muster.ray.create_group(trainers, name, timeout=120)
    tasks = [trainer.train.remote(name, 20, 7 if rank == 2 else None, after) for rank, trainer in enumerate(trainers)]
    for weights in ray.get(tasks, timeout=120):
        np.testing.assert_array_equal(weights, weights_of(20))
    assert [runs_of(tmp_path, rank) for rank in range(4)] == [1, 1, 2, 1]
    # The next task of all ranks goes on in step.
    for weights in ray.get([trainer.train.remote(name, 3) for trainer in trainers], timeout=120):
        np.testing.assert_array_equal(weights, weights_of(3))
    group.destroy()


def test_an_actor_that_takes_its_seat_elsewhere_first_goes_on_right(trainers, tmp_path):
    group = muster.ray.create_group(trainers, "elsewhere", timeout=120)
    tasks = [trainer.train.remote("elsewhere", 6, 3 if rank == 2 else None) for rank, trainer in enumerate(trainers)]
    ray.get([trainer.seat.remote("elsewhere") for trainer in trainers], timeout=120)
    for weights in ray.get(tasks, timeout=120):
        np.testing.assert_array_equal(weights, weights_of(6))
    group.destroy()


def test_an_actor_that_dies_between_two_tasks_has_its_seat_again(trainers):
    group = muster.ray.create_group(trainers, "between", timeout=60)
    ray.get([trainer.train.remote("between", 2) for trainer in trainers], timeout=120)
    for rank in (1, 3):
        os.kill(ray.get(trainers[rank].pid.remote()), signal.SIGKILL)
        for weights in ray.get([trainer.train.remote("between", 3) for trainer in trainers], timeout=120):
            np.testing.assert_array_equal(weights, weights_of(3))
    group.destroy()


def test_a_history_that_is_too_small_is_told(trainers):
    group = muster.ray.create_group(trainers, "forgetful", history="1KiB", timeout=120)
    tasks = [trainer.train.remote("forgetful", 9, 7 if rank == 2 else None) for rank, trainer in enumerate(trainers)]
    with pytest.raises(muster.Invalid, match=r"\(history=1 KiB\) does not answer it.*create_group\(\) a history="):
        ray.get(tasks[2], timeout=100)
    group.destroy()


def test_a_name_can_be_used_for_another_group(trainers):
    for order in ([0, 1, 2, 3], [3, 1, 0]):
        group = muster.ray.create_group([trainers[i] for i in order], "again")
        seats = ray.get([trainers[i].seat.remote("again") for i in order])
        assert seats == [(rank, len(order), True) for rank in range(len(order))]
        group.destroy()


def test_what_can_t_be_done_once_is_refused(trainers):
    group = muster.ray.create_group(trainers[:2], "refused")
    with pytest.raises(muster.Invalid, match=r"send\(\) can't be done once only"):
        ray.get(trainers[0].send.remote("refused"))
    group.destroy()


def test_a_key_of_the_caller_s_is_another_op_than_the_one_of_that_number(trainers):
    group = muster.ray.create_group(trainers[:2], "keyed")
    assert ray.get([trainer.keyed.remote("keyed", "0") for trainer in trainers[:2]]) == [(2, 14)] * 2
    with pytest.raises(muster.Invalid, match="key='muster op 0' begins like the keys of ops"):
        ray.get([trainer.keyed.remote("keyed", "muster op 0") for trainer in trainers[:2]])
    group.destroy()


def test_nothing_stays_written_down_of_a_seat(trainers):
    before = set(_hooks.kv_keys(b"muster/"))
    group = muster.ray.create_group(trainers[:2], "written down")
    ray.get([trainer.train.remote("written down", 1) for trainer in trainers[:2]])
    assert len(set(_hooks.kv_keys(b"muster/")) - before) == 3
    ray.get(trainers[0].leave.remote("written down"))
    assert len(set(_hooks.kv_keys(b"muster/")) - before) == 2
    group.destroy()
    assert set(_hooks.kv_keys(b"muster/")) == before


def test_two_tasks_that_take_turns_are_refused_and_few_tasks_are_known(monkeypatch):
    monkeypatch.setattr(_seats, "_TASKS_KNOWN", 3)
    seat = _seats.Seat(muster.group("turns", rank=0, world_size=1, history="1KiB"), "turns", "1KiB", "turns")
    for task in range(10):
        monkeypatch.setattr(_seats, "_task", lambda task=task: f"task {task}")
        seat.barrier().result()
    assert list(seat._tasks_before) == ["task 6", "task 7", "task 8"]
    monkeypatch.setattr(_seats, "_task", lambda: "task 8")
    with pytest.raises(muster.Invalid, match="two tasks of this actor call ops of one group at the same time"):
        seat.barrier()
    seat.leave()


def test_a_task_whose_beginning_could_not_be_written_down_has_not_begun(monkeypatch):
    seat = _seats.Seat(muster.group("begins", rank=0, world_size=1, history="1KiB"), "begins", "1KiB", "begins")
    monkeypatch.setattr(_seats, "_task", lambda: "task")
    put, written = _seats._hooks.kv_put, []

    def put_later(key, value):
        written.append(value)
        if len(written) == 1:
            raise RuntimeError("the head is busy")
        put(key, value)

    monkeypatch.setattr(_seats._hooks, "kv_put", put_later)
    with pytest.raises(RuntimeError, match="busy"):
        seat.barrier()
    seat.barrier().result()
    assert written == [b'["task", 0]'] * 2
    seat.leave()


@ray.remote
class Member:
    def has_left(self, name):
        """Looks for a group that was destroyed. Returns how many groups the daemon has then."""
        with pytest.raises(muster.Invalid, match="there is no group"):
            muster.ray.group(name)
        return muster.status()["groups"]

    def take(self, name):
        muster.ray.group(name)
        return muster.status()["groups"]


def test_an_actor_leaves_a_destroyed_group_when_it_asks_for_that_name():
    before = muster.status()["groups"]
    actors = [Member.remote()]
    group = muster.ray.create_group(actors, "for a while")
    assert ray.get(actors[0].take.remote("for a while")) == before + 1
    group.destroy()
    assert ray.get(actors[0].has_left.remote("for a while")) == before
    ray.kill(actors[0])


def test_without_restarts_a_loss_is_told(tmp_path):
    trainers = [Trainer.options(max_restarts=0, max_task_retries=0).remote(rank, str(tmp_path)) for rank in range(2)]
    group = muster.ray.create_group(trainers, "lost", on_loss="fail")
    tasks = [trainer.train.remote("lost", 3, 1 if rank == 1 else None) for rank, trainer in enumerate(trainers)]
    with pytest.raises(muster.PeerLost) as raised:
        ray.get(tasks[0], timeout=60)
    assert raised.value.ranks == [1]
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(tasks[1], timeout=60)
    group.destroy()
    ray.kill(trainers[0])


@ray.remote(num_cpus=0.5)
class Survivor:
    def train(self, name, dies):
        group = muster.ray.group(name)
        before = group.allreduce(np.ones(2)).result(conftest.PATIENCE_S)[0]
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        after = group.allreduce(np.ones(2), op="mean").result(conftest.PATIENCE_S)[0]
        return before, after, group.rank, group.live, group.allreduce(np.ones(2)).result(conftest.PATIENCE_S)[0]


def test_a_group_shrinks_to_the_survivors():
    actors = [Survivor.remote() for _ in range(4)]
    group = muster.ray.create_group(actors, "survivors", on_loss="shrink")
    tasks = [actor.train.remote("survivors", rank == 1) for rank, actor in enumerate(actors)]
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(tasks.pop(1), timeout=conftest.PATIENCE_S)
    assert ray.get(tasks, timeout=conftest.PATIENCE_S) == [(4, 1, rank, [0, 2, 3], 3) for rank in (0, 2, 3)]
    group.destroy()
    for actor in actors:
        ray.kill(actor)


def test_misuse(trainers):
    with pytest.raises(muster.Invalid, match="on_loss='never' is not valid"):
        muster.ray.create_group(trainers, "misuse", on_loss="never")
    with pytest.raises(muster.Invalid, match="4 actors, 3 of them different"):
        muster.ray.create_group([*trainers[:3], trainers[0]], "misuse")
    for actors in (None, trainers[0]):
        with pytest.raises(muster.Invalid, match=r"actors=.* is no list"):
            muster.ray.create_group(actors, "misuse")
    for name in ("", 5, None):
        with pytest.raises(muster.Invalid, match="is no name of a group"):
            muster.ray.create_group(trainers, name)
    with pytest.raises(muster.Invalid, match="is no handle of an actor"):
        muster.ray.create_group([1, 2], "misuse")
    with pytest.raises(muster.Invalid, match="there is no group 'another' of actors"):
        ray.get(trainers[0].seat.remote("another"))
    muster.ray.create_group(trainers[:2], "two")
    with pytest.raises(muster.Invalid, match="this process is no actor of the group 'two'"):
        ray.get(trainers[3].seat.remote("two"))
    conftest.until_empty()
