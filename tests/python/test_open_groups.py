"""Processes of two users in one group. They share what they give to the group and nothing else, and neither runs code
of the other."""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import os
import pathlib
import secrets
import time
from typing import NamedTuple

import numpy as np
import numpy.testing  # imported now, as a guest can't read everywhere
import pytest

from daemon import Daemon, run_ranks

GUEST = 65534


@pytest.fixture(autouse=True)
def root():
    assert os.geteuid() == 0, "these tests become another user: run them as root, as tests/run does"


@dataclasses.dataclass
class Update:
    name: str
    weights: np.ndarray


class Pair(NamedTuple):
    left: np.ndarray
    right: str


@pytest.fixture
def daemon():
    daemon = Daemon("--memory", "512MiB", environment={"MUSTER_SOCKET_MODE": "0666"})
    daemon.folder.chmod(0o755)
    yield daemon
    daemon.stop()


def attach(rank: int):
    """Rank 0 is root, and rank 1 is the guest."""
    import muster

    if rank == 1:
        os.setgroups([])
        os.setgid(GUEST)
        os.setuid(GUEST)
    muster.init()
    return muster


class Planted:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def _plant(rank: int, path: str) -> list[str]:
    muster = attach(rank)
    group = muster.group("g", rank, 2, open=True)
    found = []

    def refused(get) -> None:
        try:
            found.append(f"got {get()!r}")
        except muster.Denied as error:
            found.append(error.hint)

    planted = {"x": np.ones(3), "y": Planted(path)} if rank == 1 else None
    work = group.broadcast(planted, root=1)
    refused(work.result)
    # The same for objects made from it, in another group or in an op over refs.
    if rank == 0:
        ref = work.ref
        refused(ref.get)
        refused(muster.group("own", 0, 1).allreduce(ref).result)
        refused(muster.broadcast_refs([ref]).result)
        refused(muster.allgather_refs([ref]).result)
    work = group.allgather([planted, np.ones(1)] if planted else [datetime.date(2020, 1, 1)])
    refused(work.result)
    if rank == 0:
        # A part of a value is an object of its own.
        refused(lambda: muster.reduce_scatter_refs([work.ref[1]] * 2).result())
    group.barrier().result()
    return found


def test_a_guests_pickle_is_refused_and_nothing_runs(daemon, tmp_path):
    tmp_path.chmod(0o777)
    path = tmp_path / "planted"
    owner, guest = run_ranks(daemon, _plant, 2, str(path))
    assert [hint.startswith("in an open group pass plain data") for hint in owner] == [True] * 7, owner
    assert [hint.startswith("in an open group pass plain data") for hint in guest] == [True] * 2, guest
    assert not path.exists()


def _exchange(rank: int) -> None:
    muster = attach(rank)
    group = muster.group("g", rank, 2, open=True)
    for root in (0, 1):
        mine = rank == root
        value = {
            "update": Update("layer", np.arange(4.0)),
            "pair": Pair(np.ones(2), "x"),
            ("a", 1): [None, b"y", {"tags": {"p", "q"}}],
            "scalar": 3,
        }
        got = group.broadcast(value if mine else None, root=root).result()
        assert list(got) == list(value)
        assert type(got["update"]) is Update
        assert got["update"].name == "layer"
        np.testing.assert_array_equal(got["update"].weights, np.arange(4.0))
        assert type(got["pair"]) is Pair
        assert got["pair"].right == "x"
        assert got["a", 1] == value["a", 1]
        assert int(got["scalar"]) == 3
    reduced = group.allreduce(Update("layer", np.full(3, rank + 1.0))).result()
    np.testing.assert_array_equal(reduced.weights, np.full(3, 3.0))
    np.testing.assert_array_equal(group.allgather(np.full(2, rank)).result(), [[0, 0], [1, 1]])
    parts = [np.full(2, 10 * rank + other) for other in range(2)]
    np.testing.assert_array_equal(group.all_to_all(parts).result(), [[rank, rank], [10 + rank, 10 + rank]])
    np.testing.assert_array_equal(group.scatter(parts if rank == 1 else None, root=1).result(), np.full(2, 10 + rank))
    gathered = group.gather({"r": np.array(rank)}, root=1).result()
    assert gathered is None if rank == 0 else [int(one["r"]) for one in gathered] == [0, 1]
    if rank == 0:
        group.send(np.arange(3), dst=1).result()
    else:
        np.testing.assert_array_equal(group.recv(src=0).result(), np.arange(3))
    group.barrier().result()


def test_plain_data_and_classes_arrive(daemon):
    run_ranks(daemon, _exchange, 2)


def shows(word: bytes) -> list[str]:
    """Returns the mappings of this process's segments that contain `word`; reads all of each."""
    found = []
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        if "memfd:muster" not in line:
            continue
        first, last = (int(address, 16) for address in line.split()[0].split("-"))
        if word in ctypes.string_at(first, last - first):
            found.append(line)
    return found


def _look_around(rank: int, secret: int, later: int) -> int:
    muster = attach(rank)
    group = muster.group("shared", rank, 2, open=True, on_loss="shrink")
    steps = muster.group("steps", rank, 2, open=True)
    hidden, hidden_later = (np.full(100, number, np.int64) for number in (secret, later))
    seen = [group.broadcast(np.arange(5) if rank == 0 else None).result()]
    if rank == 0:
        ref = muster.put(hidden)
        seen += [muster.put(np.arange(9)), muster.allgather_refs([ref], stack=True).result()]
        assert shows(secret.to_bytes(8, "little"))
    seen.append(group.broadcast(seen[1].get() if rank == 0 else None).result())
    seen.append(group.allgather(np.full(7, rank)).result())
    seen.append(group.allreduce(np.ones(7)).result())
    steps.barrier().result()
    if rank == 1:
        assert shows((7).to_bytes(8, "little"))  # checks that a word can be found at all
        assert not shows(secret.to_bytes(8, "little"))
        group.leave()
    steps.barrier().result()
    if rank == 0:
        deadline = time.monotonic() + 30
        while group.live != [0]:
            assert time.monotonic() < deadline
            muster.put(0)
        seen.append(group.broadcast(hidden_later).result())
        assert shows(later.to_bytes(8, "little"))
    steps.barrier().result()
    if rank == 1:
        assert not shows(later.to_bytes(8, "little"))
    steps.barrier().result()
    return len(seen)


def test_a_guest_sees_what_it_was_given_and_nothing_else(daemon):
    secret, later = (secrets.randbits(62) for _ in range(2))
    assert run_ranks(daemon, _look_around, 2, secret, later)[1] == 4
