"""Arguments of the wrong kind raise an Invalid that names the argument and shows the value."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
import torch


def nested(levels, make):
    value = 1
    for _ in range(levels):
        value = make([value])
    return value


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
    "root=1 is out of range": lambda package, group: group.reduce(1, root=1),
    "root=-1 is out of range": lambda package, group: group.broadcast(1, root=-1),
    "root=7 is out of range": lambda package, group: group.scatter(root=7),
    "dst=1 is out of range": lambda package, group: group.send(1, 1),
    "src=-2 is out of range": lambda package, group: group.recv(-2),
    "timeout=-1": lambda package, group: package.collective_input(lambda: 1, timeout=-1)(),
    "out= has dtype float32, the result float64": lambda package, group: group.allreduce(
        np.ones(2), out=np.zeros(2, np.float32)
    ),
    "out= has dtype int64, the result float64": lambda package, group: group.allreduce(
        {"w": np.ones(2, np.int64)}, op="mean", out={"w": np.zeros(2, np.int64)}
    ),
    "out= has shape (3,), the result (2,)": lambda package, group: group.scan(np.ones(2), out=np.zeros(3)),
    "at l[1]: out= has shape (5,), the result (3,)": lambda package, group: group.allreduce(
        {"l": [np.ones(3), np.ones(3)]}, out={"l": [np.zeros(3), np.zeros(5)]}
    ),
    "at ['a b'].w: out= is read-only": lambda package, group: group.allreduce(
        {"a b": {"w": np.ones(3)}}, out={"a b": {"w": np.broadcast_to(np.zeros(1), 3)}}
    ),
    "at l: out= nests in another way than the result: it has a list of 1": lambda package, group: group.allreduce(
        {"l": [1.0, 2.0]}, out={"l": [np.zeros(())]}
    ),
    "it has an ndarray in the place of a list of 1": lambda package, group: group.reduce([np.ones(2)], out=np.zeros(2)),
    "it has a dict with the keys ['a'] in the place of a dict with the keys ['b']": lambda package, group: group.reduce(
        {"b": np.ones(2)}, out={"a": np.zeros(2)}
    ),
    "2 values for 1 rank": lambda package, group: group.scatter([1, 2]),
    "splits=[1] does not fit 1 rank and 3 rows": lambda package, group: group.all_to_all(np.ones(3), splits=[1]),
    "a file (StringIO) can't be stored": lambda package, group: group.allreduce(io.StringIO("x")),
    "an object can't have 16385 arrays": lambda package, group: package.put([1.0] * 16_385),
    "an object can't have 131073 arrays": lambda package, group: package.put([1.0] * 131_073),
    "doesn't fit in 64 bits": lambda package, group: group.allreduce(2**70),
    "the value nests deeper than 200 levels": lambda package, group: group.allreduce(nested(201, list)),
    "a constant nests deeper than 200 levels": lambda package, group: group.allreduce(nested(201, frozenset)),
    "out= nests in another way": lambda package, group: group.reduce([np.ones(2)], out=np.zeros(2)),
    "out= is read-only": lambda package, group: group.gather(1, out=[np.broadcast_to(np.zeros(1), 3)]),
    "out= holds a str": lambda package, group: group.broadcast(1, out="x"),
    "dst='x'": lambda package, group: group.send(1, "x"),
    "src='x'": lambda package, group: group.recv("x"),
    "tag=9223372036854775808": lambda package, group: group.recv(0, tag=2**63),
    "key=3": lambda package, group: group.allreduce(1, key=3),
    "key='\\udc80'": lambda package, group: group.allreduce(1, key="\udc80"),
    "color='red'": lambda package, group: group.split("red"),
    "rank 9 of the subgroup is out of range: world_size is 1": lambda package, group: group.subgroup([0, 9]),
    "rank 0 is named twice in the subgroup": lambda package, group: group.subgroup([0, 0]),
    "3 can't be split along axis 0, as it has no axes": lambda package, group: group.reduce_scatter(3),
    "2.5 can't be split along axis 0, as it has no axes": lambda package, group: group.all_to_all(2.5),
    "{'a': *} can't be split along axis 0": lambda package, group: group.all_to_all({"a": np.ones(1)}),
    "dtype object can't be stored": lambda package, group: package.empty((3,), np.dtype(object)),
    "needs a world_size, too: rank=1 is given; no launcher has set them": lambda package, group: package.group(
        "x", rank=1
    ),
    "needs a rank, too: world_size=2 is given; no launcher has set them": lambda package, group: package.group(
        "x", world_size=2
    ),
    "rank='b'": lambda package, group: group.subgroup("b"),
    "callback=3": lambda package, group: group.barrier().add_done_callback(3),
    "shape=3.5": lambda package, group: package.empty(3.5),
    "shape='3'": lambda package, group: package.empty("3"),
    "shape=(2, -1)": lambda package, group: package.empty((2, -1)),
    "device=3": lambda package, group: package.empty(3, device=3),
    "there is no device 'gpu'": lambda package, group: package.collective_input(device="gpu"),
    "no memory on cuda:0; it has memory on cpu": lambda package, group: package.empty(3, device="cuda"),
    "no memory on cuda:1; it has memory on cpu": lambda package, group: package.collective_input(device="cuda:1")(
        lambda: 1
    )(),
    "dtype='text'": lambda package, group: package.empty(3, "text"),
    "items=<muster.Ref ": lambda package, group: package.wait(package.put(1)),
    "items=<muster.Work: barrier": lambda package, group: package.wait(group.barrier()),
    "items=3": lambda package, group: package.wait(3),
    "num_returns='x'": lambda package, group: package.wait([package.put(1)], "x"),
    "ranks=0": lambda package, group: group.subgroup(0),
    "ranks=[]": lambda package, group: group.subgroup([]),
    "splits=3": lambda package, group: group.all_to_all(np.ones(2), splits=3),
    "timeout='x'": lambda package, group: package.collective_input(timeout="x"),
    "a NoneType among the refs": lambda package, group: package.allreduce_refs([None]),
    "an int among the items": lambda package, group: package.wait([3]),
    "an ndarray among the refs": lambda package, group: package.allreduce_refs([np.ones(2)]),
    "on an int": lambda package, group: package.collective_input(3),
    "memory=1.5": lambda package, group: package.init(memory=1.5),
    "memory=True": lambda package, group: package.init(memory=True),
    "memory=-1": lambda package, group: package.init(memory=-1),
    "socket=3": lambda package, group: package.init(socket=3),
    "array=None": lambda package, group: package.seal(None),
    "the shape has 65 axes": lambda package, group: package.empty((1,) * 65),
    "root=array([1., 1., 1.])": lambda package, group: group.broadcast(0, np.ones(3)),
    "root=array([1., 1.])": lambda package, group: group.reduce(0, np.ones(2)),
    "root=array([0, 0])": lambda package, group: group.scatter([0], np.zeros(2, int)),
    "muster.Ref(None)": lambda package, group: type(package.put(1))(None),
    "muster.Group(5)": lambda package, group: type(group)(5),
    "start='no'": lambda package, group: package.init(start="no"),
    "open='yes'": lambda package, group: package.group("x", rank=0, world_size=1, open="yes"),
    "stack='yes'": lambda package, group: group.allgather(1, stack="yes"),
    "stack=2": lambda package, group: package.allgather_refs([package.put(1)], stack=2),
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


@pytest.mark.parametrize("count", [16_385, 131_073])
def test_too_many_arrays_are_told_the_limit_at_once(muster, count):
    with pytest.raises(muster.Invalid, match=f"an object can't have {count} arrays") as raised:
        muster.put([1.0] * count)
    assert raised.value.hint == "use fewer and larger arrays: at most 16384 in one object"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("all_reduce", "allreduce"),
        ("Allreduce", "allreduce"),
        ("Iallreduce", "allreduce"),
        ("bcast", "broadcast"),
        ("all_gather", "allgather"),
        ("all_gather_into_tensor", "allgather"),
        ("alltoall", "all_to_all"),
        ("Reduce_scatter_block", "reduce_scatter"),
        ("isend", "send"),
        ("Irecv", "recv"),
        ("size", "world_size"),
        ("Get_rank", "rank"),
        ("Get_size", "world_size"),
        ("new_group", "subgroup"),
    ],
)
def test_names_of_other_libraries_lead_to_ours(muster, theirs, ours):
    with muster.group("names", rank=0, world_size=1) as group:
        assert hasattr(group, ours)
        with pytest.raises(AttributeError) as raised:
            getattr(group, theirs)
        assert str(raised.value) == f"a muster.Group has no attribute {theirs!r}; did you mean {ours}?"
        with pytest.raises(AttributeError, match="has no attribute 'foo'"):
            _ = group.foo
        assert not hasattr(group, "__array__")


class Holder:
    def __init__(self, data):
        self.data = data


def test_an_array_that_an_object_hides_is_told_with_its_class_and_place(muster):
    for value, told in (
        (Holder(np.ones(3)), f"an array is held by a {__name__}.Holder as its .data, and Muster can't look into that"),
        ({"m": [1, Holder([np.ones(3)])]}, f"at m[1]: an array is held by a {__name__}.Holder, and Muster can't look"),
    ):
        with pytest.raises(muster.Invalid) as raised:
            muster.put(value)
        assert raised.value.message.startswith(told)
        assert raised.value.hint == "nest arrays in dict, list, tuple, named tuple or dataclass"


def test_what_is_no_ref_says_where_refs_come_from(muster):
    with pytest.raises(muster.Invalid, match=r"put\(\), seal\(\) and decorated calls"):
        muster.allreduce_refs([muster.put(1), None])


def test_the_dtype_none_is_numpys_default(muster):
    assert muster.empty(3, None).dtype == np.empty(3, None).dtype


def test_an_unknown_option_is_told_by_the_call_that_got_it(muster):
    with pytest.raises(TypeError, match=r"^options\(\) got an unexpected keyword argument 'tmeout'"):
        muster.collective_input(np.ones).options(tmeout=1)


def test_integers_of_numpy_are_integers(muster):
    with muster.group("arguments", rank=np.int64(0), world_size=np.uint8(1)) as group:
        assert group.reduce(np.ones(2), root=np.int32(0)).result().tolist() == [1, 1]


def test_out_may_have_a_dtype_that_loses_nothing(muster):
    with muster.group("arguments", rank=0, world_size=1) as group:
        out = np.zeros(2)
        assert group.allreduce(np.ones(2, np.float32), out=out).result() is out
        assert out.tolist() == [1.0, 1.0]
        nested = {"a": [np.zeros(2)], "b": np.zeros((), np.int64)}
        assert group.allreduce({"b": 3, "a": [np.ones(2)]}, out=nested).result() is nested
        assert (nested["a"][0].tolist(), int(nested["b"])) == ([1.0, 1.0], 3)
        # A mistake that can't be found before is reported with the result.
        with pytest.raises(muster.Invalid, match="out= has dtype int32, the result int64"):
            group.broadcast(np.ones(2, np.int64), out=np.zeros(2, np.int32)).result()


@pytest.mark.parametrize(
    ("dtype", "holds"),
    [("float32", False), ("float16", False), ("bfloat16", False), ("float64", True), ("int64", True), ("int32", False)],
)
def test_out_may_be_a_tensor_that_has_room_for_each_value(muster, dtype, holds):
    out = torch.zeros(2, dtype=getattr(torch, dtype))
    with muster.group("arguments", rank=0, world_size=1) as group:
        if holds:
            assert group.allreduce(np.ones(2, np.int64), out=out).result().tolist() == [1, 1]
        else:
            with pytest.raises(muster.Invalid, match=f"out= has dtype {dtype}, the result int64"):
                group.allreduce(np.ones(2, np.int64), out=out)


@dataclasses.dataclass
class Fields:
    w: object
    b: object


@pytest.mark.parametrize("out", [np.zeros(2), [np.zeros(2), np.zeros(2)], {"w": np.zeros(2), "b": np.zeros(2)}])
def test_out_for_a_dataclass_has_its_fields(muster, out):
    with muster.group("arguments", rank=0, world_size=1) as group:
        with pytest.raises(muster.Invalid, match="nests in another way") as raised:
            group.allreduce(Fields(np.ones(2), np.ones(2)), out=out)
        assert "a Fields with the fields ['w', 'b']" in raised.value.hint
        own = Fields(np.zeros(2), np.zeros(2))
        assert group.allreduce(Fields(np.ones(2), np.ones(2)), out=own).result() is own
        assert own.b.tolist() == [1, 1]


def test_out_is_refused_before_the_call_takes_part_in_vain(muster):
    """The other ranks learn of it, as of any call that raises."""
    group = muster.group("arguments", rank=0, world_size=2, timeout=30)
    other = muster.group("arguments", rank=1, world_size=2, timeout=30)
    waits = other.allreduce(np.ones(2))
    with pytest.raises(muster.Invalid, match="out="):
        group.allreduce(np.ones(2), out=np.zeros(3))
    with pytest.raises(muster.Invalid, match="rank 0 has no input"):
        waits.result()
    both = group.allreduce(1), other.allreduce(2)
    assert [int(work.result()) for work in both] == [3, 3]


def test_a_part_that_was_not_imported_says_how():
    code = "import muster; muster.ray"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr.splitlines()[-1] == "AttributeError: muster.ray is not imported (hint: import muster.ray)"
