"""What a keeper does when something fails, and whom it asks how often."""

from __future__ import annotations

import json
import types

import conftest
import pytest
import ray
from muster.errors import DaemonUnavailable
from muster.ray import _hooks, _keepers, _reservation, _sweep


def here():
    return ray.get_runtime_context().get_node_id()


@pytest.fixture
def keeper(objects, tmp_path, monkeypatch):
    """A keeper in this process, as of a node that may be taken away, whose daemon has nothing in it."""
    told = dict.fromkeys(("objects", "groups", "ops_in_flight"), 0)
    monkeypatch.setattr(_keepers.muster, "status", lambda: told)
    monkeypatch.setattr(_keepers._runtime, "start_again", lambda function: None)  # this process is no keeper
    made = _keepers._Keeper.__ray_metadata__.modified_class()
    made._path = str(tmp_path / "socket")
    made._is_head = False
    made._reservation._group, made._reservation.memory = types.SimpleNamespace(id=b"any"), 100
    return made


def share(monkeypatch, left):
    """Says how much of the reservation is left. Returns the nodes that were asked for."""
    asked = []
    monkeypatch.setattr(_hooks, "left_on", lambda node: asked.append(node) or {_hooks.memory_of(b"any".hex()): left})
    return asked


def test_the_head_is_asked_for_shares_only_when_the_daemon_has_been_idle(keeper, monkeypatch):
    asked = share(monkeypatch, left=50)
    keeper._idle_timeout = float("inf"), 3600
    keeper.look()
    assert not keeper.may_end()
    assert asked == []
    keeper._idle_timeout = float("inf"), 0
    assert not keeper.may_end()
    assert asked == [here()]


def test_a_keeper_that_may_end_lets_nobody_begin(keeper, monkeypatch):
    share(monkeypatch, left=100)
    keeper._idle_timeout = float("inf"), 0
    assert _keepers._needs.begin(keeper._path)
    assert not keeper.may_end()
    _keepers._needs.end(keeper._path)
    taken = []
    take = _keepers._needs.take
    monkeypatch.setattr(_keepers._needs, "take", lambda path: taken.append(take(path)) or taken[-1])
    assert keeper.may_end()
    assert not _keepers._needs.begin(keeper._path)
    _keepers.os.close(taken[-1])
    assert _keepers._needs.begin(keeper._path)
    _keepers._needs.end(keeper._path)


class NotStopping:
    """A keeper whose daemon does not answer at first, and can't be stopped."""

    def __init__(self):
        self.looks = 0

    def ended(self, seconds):
        return False

    def look(self):
        self.looks += 1
        if self.looks < 3:
            raise DaemonUnavailable("it has ended", "")

    def may_end(self):
        return self.looks == 4

    def sweep(self):
        pass

    def stop(self):
        raise OSError("no process can be started")


def test_a_keeper_goes_on_when_a_look_fails_and_ends_also_when_stopping_fails(monkeypatch):
    killed = []
    monkeypatch.setattr(ray, "kill", killed.append)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: types.SimpleNamespace(current_actor="me"))
    with pytest.raises(OSError, match="no process"):
        _keepers._watch(NotStopping())
    assert killed == ["me"]


def test_a_keeper_that_has_stopped_makes_way_for_another(objects):
    before = _reservation.reservation_on(here())["keeper"]
    ray.get(_keepers._find(here()).stop.remote(), timeout=conftest.PATIENCE_S)
    _keepers.start(here(), timeout=conftest.PATIENCE_S / 2)
    assert _reservation.reservation_on(here())["keeper"] != before


def test_all_nodes_are_waited_for_until_one_moment(monkeypatch):
    moments = []
    monkeypatch.setattr(_keepers, "alive_nodes", lambda: ["a", "b", "c"])
    starts = types.SimpleNamespace(start=types.SimpleNamespace(remote=lambda memory: None))
    monkeypatch.setattr(_keepers, "_keeper_on", lambda node: starts)
    monkeypatch.setattr(_keepers, "_started", lambda node, memory, seconds, until, answer: moments.append(until))
    _keepers.start_on_all(None)
    assert len(moments) == 3
    assert len(set(moments)) == 1


def test_a_keeper_that_nobody_has_started_is_watched(keeper):
    assert keeper._watch is None
    assert keeper.nothing(2) == (None, None)
    watching = keeper._watch
    assert watching.is_alive()
    keeper._ended.set()
    watching.join(conftest.PATIENCE_S)
    assert not watching.is_alive()


@ray.remote(num_cpus=0)
class Failing:
    def stop(self):
        raise DaemonUnavailable("it does not end", "")

    def still_open(self, tokens):
        raise DaemonUnavailable("it does not say so", "")


@ray.remote(num_cpus=0)
class Answering:
    def still_open(self, tokens):
        return tokens[:1]


def test_daemons_that_may_still_run_are_told(objects, monkeypatch, caplog):
    failing = Failing.remote()
    monkeypatch.setattr(_keepers, "alive_nodes", lambda: ["a" * 56])
    monkeypatch.setattr(_keepers, "_find", lambda node: failing)
    _keepers.stop_all()
    assert "the daemon of node aaaaaaaaaaaaaaaa may still run" in caplog.text
    assert "it does not end" in caplog.text


def test_tokens_are_open_unless_their_node_is_lost_or_says_no(objects, monkeypatch):
    keepers = {"silent": Failing.remote(), "says": Answering.remote(), "lost": None}
    monkeypatch.setattr(_keepers, "alive_nodes", lambda: ["silent", "says"])
    monkeypatch.setattr(_keepers, "_find", keepers.__getitem__)
    ray.get(keepers["says"].still_open.remote(["it has started"]), timeout=conftest.PATIENCE_S)
    tokens = {"silent": ["a", "b"], "says": ["c", "d"], "lost": ["e"]}
    assert _keepers._still_open(tokens) == {"a", "b", "c"}
    assert _keepers._still_open({}) == set()
    for started in (keepers["silent"], keepers["says"]):
        ray.kill(started)


def test_what_is_written_down_of_what_is_gone_goes(objects):
    job, actor = ray.get_runtime_context().get_job_id(), _keepers._find(here())._actor_id.hex()
    for key in _hooks.kv_keys(b"muster/"):
        _hooks.kv_delete(key)  # of the tests before
    record = {"id": "ended", "actors": ["ff" * 16]}
    stays = {
        f"muster/group/{job}/a/b": json.dumps({**record, "id": "mine"}).encode(),
        "muster/group/ffffffff/detached": json.dumps({"id": "detached", "actors": ["ff" * 16, actor]}).encode(),
        "muster/seat/mine/0": b"",
        "muster/seat/detached/1": b"",
    }
    goes = {
        f"socket/{'f' * 56}": b"path",
        f"reservation/{'f' * 56}": b"{}",
        "job/ffffffff": b"",
        "ending/ffffffff": b"",
        "muster/group/ffffffff/a": json.dumps(record).encode(),
        "muster/seat/ended/0": b"",
    }
    before = set(_hooks.kv_keys(b""))
    for key, value in {**stays, **goes}.items():
        _hooks.kv_put(key.encode(), value)
    _sweep.sweep()
    assert {key.decode() for key in set(_hooks.kv_keys(b"")) - before} == set(stays)
    assert before <= set(_hooks.kv_keys(b""))
    for key in stays:
        _hooks.kv_delete(key.encode())
