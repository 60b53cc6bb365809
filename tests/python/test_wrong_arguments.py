"""Arguments of the wrong kind: an Invalid that names the argument and shows the value."""

from __future__ import annotations

import numpy as np
import pytest

WRONG = {
    "rank='a'": lambda package, group: package.group("x", rank="a", world_size=1),
    "rank=-1": lambda package, group: package.group("x", rank=-1, world_size=1),
    "world_size=0": lambda package, group: package.group("x", rank=0, world_size=0),
    "world_size=4294967296": lambda package, group: package.group("x", rank=0, world_size=2**32),
    "name=3": lambda package, group: package.group(3, rank=0, world_size=1),
    "on_loss='retry'": lambda package, group: package.group("x", rank=0, world_size=1, on_loss="retry"),
    "on_loss=[]": lambda package, group: package.group("x", rank=0, world_size=1, on_loss=[]),
    "timeout=0": lambda package, group: package.group("x", rank=0, world_size=1, timeout=0),
    "timeout=None": lambda package, group: package.group("x", rank=0, world_size=1, timeout=None),
    "timeout='1'": lambda package, group: group.barrier(timeout="1"),
    "timeout=nan": lambda package, group: group.barrier(timeout=float("nan")),
    "root='x'": lambda package, group: group.reduce(1, root="x"),
    "root=None": lambda package, group: group.gather(1, root=None),
    "root=1.5": lambda package, group: package.reduce_refs([package.put(1)], root=1.5),
    "root=2147483648": lambda package, group: group.reduce(1, root=2**31),
    "dst='x'": lambda package, group: group.send(1, "x"),
    "src='x'": lambda package, group: group.recv("x"),
    "tag=9223372036854775808": lambda package, group: group.recv(0, tag=2**63),
    "key=3": lambda package, group: group.allreduce(1, key=3),
    "key='\\udc80'": lambda package, group: group.allreduce(1, key="\udc80"),
    "color='red'": lambda package, group: group.split("red"),
    "rank='b'": lambda package, group: group.subgroup("b"),
    "callback=3": lambda package, group: group.barrier().add_done_callback(3),
    "socket=3": lambda package, group: package.init(socket=3),
    "reduce op 'median'": lambda package, group: group.allreduce(1, op="median"),
}


@pytest.mark.parametrize("named", WRONG)
def test_an_argument_of_the_wrong_kind(muster, named):
    with muster.group("arguments", rank=0, world_size=1) as group:
        with pytest.raises(muster.Invalid) as raised:
            WRONG[named](muster, group)
        assert named in raised.value.message
        assert raised.value.hint
        assert group.allreduce(np.ones(2)).result().tolist() == [1, 1]


def test_integers_of_numpy_are_integers(muster):
    with muster.group("arguments", rank=np.int64(0), world_size=np.uint8(1)) as group:
        assert group.reduce(np.ones(2), root=np.int32(0)).result().tolist() == [1, 1]
