"""Every collective against NumPy, over random dtypes, shapes, ops and world sizes."""

from __future__ import annotations

import functools
import threading

import ml_dtypes
import muster as package
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threads import as_ranks

DTYPES = [
    np.dtype(name)
    for name in (
        [
            "bool",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float16",
            "float32",
            "float64",
            "complex64",
            "complex128",
        ]
    )
] + [np.dtype(ml_dtypes.bfloat16)]
UFUNCS = {
    "sum": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
    "land": np.logical_and,
    "lor": np.logical_or,
}
HALVES = (np.dtype("float16"), np.dtype(ml_dtypes.bfloat16))
check = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make(dtype: np.dtype, shape: tuple[int, ...], seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.integers(0, 7, shape) if dtype.kind in "bu" else random.integers(-6, 7, shape)
    if dtype.kind == "c":
        values = values + 1j * random.integers(-6, 7, shape)
    return np.asarray(values).astype(dtype)


def has_meaning(dtype: np.dtype, op: str) -> bool:
    if op in ("min", "max"):
        return dtype.kind != "c"
    return op not in ("band", "bor", "bxor") or dtype.kind in "biu"


def reduced(arrays: list[np.ndarray], op: str) -> np.ndarray:
    """Returns NumPy's reduction in rank order; half types are computed in float32 and rounded once."""
    dtype = arrays[0].dtype
    if op == "mean":
        wide = np.float32 if dtype in HALVES else np.float64 if dtype.kind in "biu" else dtype
        total = functools.reduce(np.add, [array.astype(wide) for array in arrays])
        count = np.asarray(len(arrays)).astype(total.real.dtype)
        if dtype.kind == "c":  # NumPy multiplies by 1 / count, which rounds twice
            return (total.real / count + 1j * (total.imag / count)).astype(dtype)
        return (total / count).astype(dtype if dtype.kind not in "biu" else wide)
    if dtype.kind == "b" and op in ("sum", "prod"):
        return functools.reduce(UFUNCS[op], [array.astype(np.int64) for array in arrays])
    if op in ("land", "lor"):
        return functools.reduce(UFUNCS[op], [array.astype(bool) for array in arrays])
    if dtype in HALVES:
        return functools.reduce(UFUNCS[op], [array.astype(np.float32) for array in arrays]).astype(dtype)
    return functools.reduce(UFUNCS[op], arrays).astype(dtype)


shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
worlds = st.integers(1, 8)
dtypes = st.sampled_from(DTYPES)
ops = st.sampled_from([*UFUNCS, "mean"])


def same(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)


@check
@given(worlds, dtypes, shapes, ops, st.integers(0, 999))
def test_allreduce_is_numpys_reduction_on_every_rank(muster, world, dtype, shape, op, seed):
    arrays = [make(dtype, shape, seed + rank) for rank in range(world)]
    if not has_meaning(dtype, op):
        with pytest.raises(package.Invalid):
            as_ranks(world, lambda group: group.allreduce(arrays[group.rank], op=op).result())
        return
    expected = reduced(arrays, op)
    for got in as_ranks(world, lambda group: group.allreduce(arrays[group.rank], op=op).result()):
        same(got, expected)


@check
@given(worlds, dtypes, shapes, st.integers(0, 999), st.data())
def test_reduce_gives_the_root_only(muster, world, dtype, shape, seed, data):
    root = data.draw(st.integers(0, world - 1))
    arrays = [make(dtype, shape, seed + rank) for rank in range(world)]
    results = as_ranks(world, lambda group: group.reduce(arrays[group.rank], root=root).result())
    same(results[root], reduced(arrays, "sum"))
    assert all(result is None for rank, result in enumerate(results) if rank != root)


@check
@given(worlds, dtypes, shapes, st.integers(0, 999))
def test_scan_is_the_inclusive_prefix(muster, world, dtype, shape, seed):
    arrays = [make(dtype, shape, seed + rank) for rank in range(world)]
    for rank, got in enumerate(as_ranks(world, lambda group: group.scan(arrays[group.rank], "sum").result())):
        same(got, reduced(arrays[: rank + 1], "sum"))


@check
@given(worlds, dtypes, shapes, st.integers(0, 999), st.data())
def test_broadcast_gather_and_scatter_move_values_untouched(muster, world, dtype, shape, seed, data):
    root = data.draw(st.integers(0, world - 1))
    arrays = [make(dtype, (rank, *shape), seed + rank) for rank in range(world)]

    def run(group):
        own = arrays[group.rank]
        return (
            group.broadcast(own if group.rank == root else None, root=root).result(),
            group.gather(own, root=root).result(),
            group.scatter(arrays if group.rank == root else None, root=root).result(),
            group.allgather(own).result(),
        )

    for rank, (sent, gathered, scattered, everything) in enumerate(as_ranks(world, run)):
        same(sent, arrays[root])
        same(scattered, arrays[rank])
        assert (gathered is None) == (rank != root)
        for got, expected in zip(gathered or [], arrays):
            same(got, expected)
        assert len(everything) == world
        for got, expected in zip(everything, arrays):
            same(got, expected)


@check
@given(worlds, dtypes, shapes, st.integers(0, 999))
def test_allgather_stacks(muster, world, dtype, shape, seed):
    arrays = [make(dtype, shape, seed + rank) for rank in range(world)]
    for got in as_ranks(world, lambda group: group.allgather(arrays[group.rank], stack=True).result()):
        same(got, np.stack(arrays))


@check
@given(worlds, dtypes, shapes, st.integers(0, 3), st.integers(0, 999))
def test_reduce_scatter_of_lists_and_of_arrays(muster, world, dtype, shape, rows, seed):
    whole = [make(dtype, (rows * world, *shape), seed + rank) for rank in range(world)]

    def run(group):
        own = whole[group.rank]
        return group.reduce_scatter(own).result(), group.reduce_scatter(
            np.split(own, world) if rows else [own] * world
        ).result()

    expected = reduced(whole, "sum")
    for rank, (of_array, of_list) in enumerate(as_ranks(world, run)):
        part = expected[rank * rows : (rank + 1) * rows]
        same(of_array, part)
        same(of_list, part)


@check
@given(worlds, dtypes, shapes, st.integers(0, 999), st.data())
def test_all_to_all_of_lists_and_of_split_arrays(muster, world, dtype, shape, seed, data):
    splits = [[data.draw(st.integers(0, 3)) for _ in range(world)] for _ in range(world)]
    lists = [[make(dtype, (rows, *shape), seed + 8 * r + c) for c, rows in enumerate(splits[r])] for r in range(world)]

    def run(group):
        own = lists[group.rank]
        of_lists = group.all_to_all(own).result()
        return of_lists, group.all_to_all(np.concatenate(own), splits=splits[group.rank]).result()

    for rank, (of_lists, of_array) in enumerate(as_ranks(world, run)):
        column = [lists[source][rank] for source in range(world)]
        for got, expected in zip(of_lists, column):
            same(got, expected)
        same(of_array, np.concatenate(column))


def test_send_and_recv_match_by_pair_and_tag_in_order(muster):
    def run(group):
        if group.rank == 0:
            works = [group.send(np.full(3, value), dst=1, tag=tag) for value, tag in ((1, 0), (2, 7), (3, 0))]
            return [work.result() for work in works]
        by_tag = group.recv(src=0, tag=7).result()
        return [by_tag, group.recv(src=0).result(), group.recv(src=0).result()]

    sent, received = as_ranks(2, run)
    assert sent == [None] * 3
    assert [int(array[0]) for array in received] == [2, 1, 3]


def test_bundles_reduce_in_one_op_and_keep_their_structure(muster):
    def run(group):
        value = {"w": [np.full((2, 3), group.rank, np.float32), (group.rank, None)], 7: np.arange(4) * group.rank}
        return group.allreduce(value).result()

    for got in as_ranks(3, run):
        assert list(got) == ["w", 7]
        same(got["w"][0], np.full((2, 3), 3, np.float32))
        assert got["w"][1] == (3, None)
        same(got[7], np.arange(4) * 3)


def test_out_receives_the_result(muster):
    def run(group):
        target = {"a": np.zeros(3)}
        returned = group.allreduce({"a": np.ones(3)}, out=target).result()
        return returned is target, target["a"].tolist()

    assert as_ranks(2, run) == [(True, [2.0] * 3)] * 2


def test_keys_match_whatever_the_order_of_calls(muster):
    def run(group):
        keys = ["a", "b"] if group.rank else ["b", "a"]
        works = {key: group.allreduce(np.full(2, ord(key)), key=key) for key in keys}
        return {key: int(work.result()[0]) for key, work in works.items()}

    assert as_ranks(2, run) == [{"a": 2 * 97, "b": 2 * 98}] * 2


def test_a_thousand_ops_in_flight_and_waited_for_in_reverse(muster):
    def run(group):
        works = [group.allreduce(np.full(4, index)) for index in range(1024)]
        return [int(work.result()[0]) for work in reversed(works)]

    assert as_ranks(2, run) == [[2 * index for index in reversed(range(1024))]] * 2


def test_more_ops_than_may_be_in_flight_wait_for_room(muster):
    started = threading.Event()

    def run(group):
        if group.rank == 1:
            assert started.wait(60)
        works = []
        for index in range(1500):
            works.append(group.allreduce(np.full(1, index)))
            if index == 1023:
                started.set()
        return [int(work.result()[0]) for work in works]

    assert as_ranks(2, run, timeout=60) == [[2 * index for index in range(1500)]] * 2


def test_split_subgroup_and_overlapping_groups(muster):
    def run(group):
        half = group.split(color=group.rank % 2, key=-group.rank)
        low = group.subgroup([0, 1]) if group.rank < 2 else None
        in_half = int(half.allreduce(group.rank).result())
        in_low = int(low.allreduce(10 + group.rank).result()) if low else None
        nobody = group.split(color=None)
        return half.rank, half.world_size, in_half, in_low, nobody

    assert as_ranks(4, run) == [
        (1, 2, 2, 21, None),
        (1, 2, 4, 21, None),
        (0, 2, 2, None, None),
        (0, 2, 4, None, None),
    ]


def test_a_group_of_one(muster):
    def run(group):
        return (
            group.allreduce(np.arange(3), op="mean").result().tolist(),
            len(group.allgather(5).result()),
            group.barrier().result(),
        )

    assert as_ranks(1, run) == [([0.0, 1.0, 2.0], 1, None)]


def test_refs_of_one_process_need_no_ranks(muster):
    refs = [muster.put(np.arange(4.0) + rank) for rank in range(3)]
    same(muster.allreduce_refs(refs, op="mean").result(), np.arange(4.0) + 1)
    same(muster.allreduce_refs((ref for ref in refs), op="mean").result(), np.arange(4.0) + 1)
    same(muster.reduce_refs(refs, root=2).result(), np.arange(4.0) * 3 + 3)
    same(muster.broadcast_refs(refs, root=1).result(), np.arange(4.0) + 1)
    assert len(muster.allgather_refs(refs).result()) == 3
    same(muster.allgather_refs(refs, stack=True).result(), np.stack([ref.get() for ref in refs]))
    lists = [muster.put([np.full(2, 10 * rank + column) for column in range(3)]) for rank in range(3)]
    scattered = muster.reduce_scatter_refs(lists).result()
    assert [int(part[0]) for part in scattered] == [30, 33, 36]
    crossed = muster.all_to_all_refs(lists).result()
    assert [[int(part[0]) for part in row] for row in crossed] == [[0, 10, 20], [1, 11, 21], [2, 12, 22]]


def test_disagreement_is_a_mismatch_on_every_rank_that_names_ranks_and_fields(muster):
    caught = []

    def run(group):
        work = group.allreduce(np.zeros(3, np.float32 if group.rank else np.float64))
        with pytest.raises(package.Mismatch, match="dtype") as error:
            work.result()
        caught.append((str(error.value), error.value.ranks))
        return int(group.allreduce(1).result())

    assert as_ranks(3, run) == [3] * 3
    assert len(caught) == 3
    assert len({message for message, _ in caught}) == 1


def test_a_missing_rank_is_a_timeout_that_names_it_and_leaves_the_group_usable(muster):
    contributed = threading.Event()

    def run(group):
        if group.rank == 1:
            assert contributed.wait(60)
            with pytest.raises(package.Timeout) as late:
                group.allreduce(1).result()
            return late.value.ranks, int(group.allreduce(1).result())
        work = group.allreduce(1, timeout=0.2)
        with pytest.raises(package.Timeout, match="rank") as error:
            work.result()
        contributed.set()
        return error.value.ranks, int(group.allreduce(1).result())

    assert as_ranks(2, run) == [([1], 2)] * 2


def test_a_wait_that_is_too_short_leaves_the_op_alone(muster):
    waited = threading.Event()

    def run(group):
        if group.rank == 1:
            assert waited.wait(60)
        work = group.allreduce(1)
        if group.rank == 0:
            with pytest.raises(package.Timeout) as error:
                work.result(timeout=0.05)
            assert error.value.ranks == [1]
            waited.set()
        return int(work.result())

    assert as_ranks(2, run) == [2, 2]


@pytest.mark.parametrize("world", [1, 2, 5, 8])
def test_bits_are_the_same_on_every_rank(muster, world):
    arrays = [np.random.default_rng(rank).standard_normal(100_003).astype(np.float32) for rank in range(world)]
    expected = functools.reduce(np.add, arrays)
    for got in as_ranks(world, lambda group: group.allreduce(arrays[group.rank]).result()):
        assert got.tobytes() == expected.tobytes()


def test_an_array_of_a_ref_is_copied_only_where_it_may_be(muster):
    ref = muster.put(np.arange(3.0))
    assert np.shares_memory(ref.__array__(copy=False), ref.get())
    assert np.asarray(ref, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="float64 array can't be one of float32 without a copy"):
        ref.__array__(np.float32, copy=False)


def test_numpys_functions_are_reduce_ops(muster):
    flags, bits = np.array([True, False]), np.array([6, 3])
    with muster.group("functions", rank=0, world_size=1) as group:
        for function in (np.logical_and, np.logical_or):
            assert group.allreduce(flags, op=function).result().tolist() == [True, False]
        for function in (np.bitwise_and, np.bitwise_or, np.bitwise_xor):
            assert group.allreduce(bits, op=function).result().tolist() == [6, 3]
    refs = [muster.put(bits), muster.put(np.array([5, 5]))]
    for function in (np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.logical_and, np.logical_or):
        np.testing.assert_array_equal(muster.allreduce_refs(refs, op=function).result(), function([6, 3], [5, 5]))


def test_only_a_call_that_takes_splits_speaks_of_them(muster):
    with muster.group("uneven", rank=0, world_size=2) as group:
        with pytest.raises(muster.Invalid, match="evenly") as raised:
            group.reduce_scatter(np.ones(3), key="a")
        assert raised.value.hint == "make it a multiple of world_size"
        with pytest.raises(muster.Invalid, match="evenly") as raised:
            group.all_to_all(np.ones(3), key="b")
        assert raised.value.hint == "make it a multiple of world_size, or give splits="
