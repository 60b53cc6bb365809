"""Which arrays are taken over without a copy and which are copied, and that ``copies`` is right."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import functools
import os
import pathlib
import pickle
import threading
import weakref

import muster as package
import numpy as np
import pytest
from muster import _runtime
from programs import in_another_thread

from daemon import run_ranks


def in_the_store(array: np.ndarray) -> bool:
    """Whether the array's address is in a mapping of a segment that a client writes, according to the kernel."""
    address = array.__array_interface__["data"][0]
    with pathlib.Path("/proc/self/maps").open() as maps:
        for line in maps:
            span, _, rest = line.partition(" ")
            low, high = (int(edge, 16) for edge in span.split("-"))
            if low <= address < high:
                return "memfd:muster-client" in rest
    return False


def deposited(function, *arguments):
    return package.collective_input(function)(*arguments)


def resident_bytes(array: np.ndarray) -> int:
    """Returns how many bytes of the array's mapping have pages in this process."""
    address = array.__array_interface__["data"][0]
    inside = False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if "-" in word:
            low, high = (int(edge, 16) for edge in word.split("-"))
            inside = low <= address < high
        elif inside and word == "Rss:":
            return int(line.split()[1]) << 10
    raise LookupError(hex(address))


def test_zeros_that_nobody_touches_take_no_pages_in_fresh_memory(muster):
    resident = []

    @package.collective_input
    def zeros():
        array = np.zeros(32 << 20, np.uint8)
        resident.append(resident_bytes(array))
        return array

    ref = zeros()
    assert ref.copies == 0
    assert resident[0] < 1 << 20
    assert not ref.get().any()


def test_zeros_are_zero_where_other_arrays_lay(muster):
    @package.collective_input
    def of(make, count):
        return make(count)

    for count in (3, 1 << 10, 1 << 16, 1 << 20):
        for _ in range(5):
            of(np.ones, count).free()
            ref = of(np.zeros, count)
            assert ref.copies == 0
            assert not ref.get().any()
            ref.free()


def test_arrays_of_the_call_lie_in_the_store_before_it_returns(muster):
    seen = []

    def make():
        arrays = {"small": np.ones(3), "large": np.zeros((512, 512)), "view": np.arange(100)[10:20]}
        seen.extend(in_the_store(array) for array in arrays.values())
        return arrays

    ref = deposited(make)
    assert seen == [True, True, True]
    assert ref.copies == 0
    got = ref.get()
    np.testing.assert_array_equal(got["view"], np.arange(10, 20))
    np.testing.assert_array_equal(got["large"], 0)


@dataclasses.dataclass
class Pair:
    left: np.ndarray
    right: np.ndarray


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.ones(5),
        lambda: (np.ones(5), [np.zeros(2)]),
        lambda: Pair(np.ones(5), np.zeros(2)),
        lambda: (lambda array: (array, array))(np.ones(5)),
        lambda: (lambda array: (array[:2], array[2:]))(np.ones(5)),
        lambda: np.ones((4, 4)).reshape(2, 8),
        lambda: np.float64(3) * np.ones(7),
        lambda: np.empty((0, 3)),
        lambda: np.array(1.5),
        lambda: np.concatenate([np.ones(3), np.zeros(3)]),
        lambda: np.ones(3).astype(np.float16),
    ],
)
def test_fresh_arrays_cost_no_copy(muster, make):
    ref = deposited(make)
    assert ref.copies == 0


KEPT: list = []
GLOBAL = np.ones(4)


class Holder:
    def keep(self):
        self.w = np.ones(4)
        return self.w

    def keep_base(self):
        self.w = np.ones(4)
        return self.w[1:]

    @package.collective_input
    def method(self, n):
        return np.full(n, 2.0)


def keep_in_list():
    array = np.ones(4)
    KEPT.append(array)
    return array


def keep_container():
    made = {"a": np.ones(4)}
    KEPT.append(made)
    return made


def keep_weakly():
    array = np.ones(4)
    KEPT.append(weakref.ref(array))
    return array


def closure():
    captured = np.ones(4)
    KEPT.append(lambda: captured)
    return captured


@functools.cache
def cached():
    return np.ones(4)


def mapped(tmp_path):
    path = tmp_path / "data"
    np.arange(4.0).tofile(path)
    return np.memmap(path, dtype=np.float64)


@pytest.mark.parametrize(
    "function",
    [
        Holder().keep,
        Holder().keep_base,
        keep_in_list,
        lambda: keep_container()["a"],
        keep_weakly,
        closure,
        cached,
        lambda: GLOBAL,
        lambda: GLOBAL[1:],
        lambda: np.ones((4, 4)).T[1:],
        lambda: np.ones(8)[::2],
        lambda: np.frombuffer(b"12345678"),
    ],
)
def test_what_somebody_else_may_still_write_is_copied_once(muster, function):
    expected = np.array(function())
    ref = deposited(function)
    assert ref.copies == 1
    np.testing.assert_array_equal(ref.get(), expected)


def test_later_writes_of_the_producer_do_not_show(muster):
    holder = Holder()
    ref = deposited(holder.keep)
    holder.w[:] = 99
    np.testing.assert_array_equal(ref.get(), np.ones(4))
    ref = deposited(keep_container)
    KEPT[-1]["a"][:] = 99
    np.testing.assert_array_equal(ref.get()["a"], np.ones(4))


def test_arguments_returned_and_files_are_copied(muster, tmp_path):
    given = np.arange(4.0)
    assert deposited(lambda array: array, given).copies == 1
    assert deposited(lambda array: array[1:], given).copies == 1
    assert deposited(mapped, tmp_path).copies == 1


def test_methods_nested_and_recursive_calls(muster):
    assert Holder().method(3).copies == 0

    @package.collective_input
    def inner():
        return np.ones(3)

    inner_refs = []

    @package.collective_input
    def outer(depth):
        inner_refs.append(inner() if depth == 0 else outer(depth - 1))
        return np.full(2, depth)

    ref = outer(3)
    assert ref.copies == 0
    assert all(inner_ref.copies == 0 for inner_ref in inner_refs)
    np.testing.assert_array_equal(ref.get(), [3, 3])


def test_static_and_class_methods(muster):
    class Model:
        @package.collective_input
        @staticmethod
        def plain():
            return np.ones(2)

        @classmethod
        @package.collective_input
        def made(cls):
            return np.ones(3)

    assert Model.plain().copies == 0
    assert Model.made().copies == 0


def test_async_functions(muster):
    @package.collective_input
    async def make(n):
        first = np.ones(n)
        await asyncio.sleep(0)
        return {"a": first, "b": np.zeros(n)}

    async def several():
        return await asyncio.gather(*(make(n) for n in range(1, 6)))

    for ref in asyncio.run(several()):
        assert ref.copies == 0


class _Pause:
    def __await__(self):
        yield


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_coroutines_driven_by_hand_leave_no_handler_behind(muster, order):
    from numpy._core.multiarray import get_handler_name

    @muster.collective_input
    async def made(count):
        array = np.ones(count)
        await _Pause()
        return array

    before = get_handler_name()
    coroutines = [made(100 + i) for i in range(3)]
    for coroutine in coroutines:
        coroutine.send(None)
    for index in order:
        with pytest.raises(StopIteration) as end:
            coroutines[index].send(None)
        np.testing.assert_array_equal(end.value.value.get(), np.ones(100 + index))
    assert get_handler_name() == before
    assert get_handler_name(np.ones(3)) == before


def test_arrays_kept_across_an_await_are_copied(muster):
    @package.collective_input
    async def make():
        array = np.ones(3)
        KEPT.append(array)
        await asyncio.sleep(0)
        return array

    assert asyncio.run(make()).copies == 1


def test_a_task_that_outlives_its_call_allocates_elsewhere(muster):
    late = []

    async def background(over):
        await over.wait()
        late.append(in_the_store(np.ones(1000)))

    @package.collective_input
    async def make(over, tasks):
        tasks.append(asyncio.create_task(background(over)))
        return np.ones(3)

    async def run():
        over, tasks = asyncio.Event(), []
        await make(over, tasks)
        over.set()
        await tasks[0]

    asyncio.run(run())
    assert late == [False]


def test_plain_threads_inside_a_call_use_malloc_and_are_copied(muster):
    @package.collective_input
    def make():
        made = []
        thread = threading.Thread(target=lambda: made.append(np.ones(3)))
        thread.start()
        thread.join()
        return made.pop()

    assert make().copies == 1


def test_generators_are_refused(muster):
    with pytest.raises(package.Invalid, match="generator"):

        @package.collective_input
        def numbers():
            yield np.ones(3)


def test_an_exception_in_the_function_is_the_callers(muster):
    @package.collective_input
    def broken():
        np.ones(10)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        broken()
    assert not in_the_store(np.ones(1000))


def test_empty_and_seal(muster):
    array = muster.empty((3, 4), np.float32)
    assert in_the_store(array)
    array[:] = 7
    ref = muster.seal(array)
    assert ref.copies == 0
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    np.testing.assert_array_equal(ref.get(), 7)


def test_sealing_an_array_that_has_views_copies(muster):
    array = muster.empty(8)
    view = array[2:]
    array[:] = 1
    ref = muster.seal(array)
    assert ref.copies == 1
    view[:] = 99
    np.testing.assert_array_equal(ref.get(), np.ones(8))


def filled(muster) -> np.ndarray:
    array = muster.empty(64)
    array[:] = 1
    return array


HIDDEN: list = []


class Owner:
    """Has an array in all the places where programs keep one."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.state = {"w": array}


HIDERS = [
    pytest.param(lambda array: array[2:], id="view"),
    pytest.param(lambda array: array.reshape(8, 8), id="reshaped"),
    pytest.param(lambda array: array.view(Buffer), id="subclass"),
    pytest.param(memoryview, id="memoryview"),
    pytest.param(pickle.PickleBuffer, id="pickle buffer"),
    pytest.param(np.frombuffer, id="frombuffer"),
    pytest.param(np.from_dlpack, id="DLPack"),
    pytest.param(np.lib.stride_tricks.as_strided, id="as_strided"),
    pytest.param(lambda array: np.nditer(array, op_flags=["readwrite"]), id="nditer"),
    pytest.param(lambda array: memoryview(array.base), id="buffer of the memory"),
    pytest.param(np.ctypeslib.as_ctypes, id="ctypes"),
]


class Buffer(np.ndarray):
    pass


def overwrite(hidden) -> None:
    if isinstance(hidden, np.nditer):
        for element in hidden:
            element[...] = 99
        return
    target = np.asarray(hidden)
    if not target.flags.writeable:  # DLPack before NumPy 2.1
        target = np.ctypeslib.as_array((ctypes.c_double * 64).from_address(target.ctypes.data))
    target.view(np.float64)[...] = 99


@pytest.mark.parametrize("hide", HIDERS)
@pytest.mark.parametrize(
    "expression",
    [
        pytest.param(lambda take: package.seal(take()), id="call"),
        pytest.param(lambda take: package.seal([take()].pop()), id="pop"),
        pytest.param(lambda take: package.seal(Owner(take()).array), id="attribute of a temporary"),
        pytest.param(lambda take: next(package.seal(array) for array in [take()]), id="variable"),
        pytest.param(lambda take: package.seal(*[take()]), id="star"),
        pytest.param(lambda take: package.seal(**{"array": take()}), id="keyword"),
        pytest.param(lambda take: next(map(package.seal, [take()])), id="map"),
        pytest.param(lambda take: functools.partial(package.seal, take())(), id="partial"),
    ],
)
def test_a_hidden_view_is_seen_whatever_the_expression(muster, expression, hide):
    HIDDEN.clear()

    def take():
        array = filled(muster)
        HIDDEN.append(hide(array))
        return array

    ref = expression(take)
    assert ref.copies == 1
    overwrite(HIDDEN[0])
    np.testing.assert_array_equal(ref.get(), np.ones(64))


def from_variable(muster):
    array = filled(muster)
    return muster.seal(array)


def from_closure(muster):
    array = filled(muster)
    return (lambda: muster.seal(array))()


def from_attribute(muster):
    owner = Owner(filled(muster))
    return muster.seal(owner.array)


def from_two_variables(muster):
    array = also = filled(muster)
    return muster.seal(also), array


def from_a_dict(muster):
    state = {"a": [filled(muster)]}
    return muster.seal(state["a"][0])


def from_a_global(muster):
    HIDDEN[:] = [filled(muster)]
    return muster.seal(HIDDEN[0])


@pytest.mark.parametrize(
    "function",
    [
        from_variable,
        from_closure,
        from_attribute,
        from_two_variables,
        from_a_dict,
        from_a_global,
        lambda muster: muster.seal(filled(muster)),
        lambda muster: muster.seal([filled(muster)].pop()),
    ],
)
def test_names_for_a_sealed_array_cost_no_copy(muster, function):
    ref = function(muster)
    ref = ref[0] if isinstance(ref, tuple) else ref
    assert ref.copies == 0
    np.testing.assert_array_equal(ref.get(), np.ones(64))


def test_sealing_keeps_none_of_the_callers_variables(muster):
    array = filled(muster)
    other = Owner(array)
    watch = weakref.ref(other)
    assert muster.seal(array).copies == 0
    del other
    assert watch() is None


def test_what_the_caller_knows_of_its_variables_stays(muster):
    array = filled(muster)
    known = locals()
    muster.seal(array)
    assert known["array"] is array


def test_an_array_is_sealed_without_a_copy_once(muster):
    array = filled(muster)
    assert [muster.seal(array).copies for _ in range(2)] == [0, 1]


def _seal_in_a_child(_rank):
    array = package.empty(64)
    array[:] = 1
    child = os.fork()
    if child == 0:
        ref = package.seal(array)
        os._exit(0 if ref.copies == 1 and (ref.get() == 1).all() else 1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), package.seal(array).copies


def test_an_inherited_array_is_copied(own_daemon):
    assert run_ranks(own_daemon, _seal_in_a_child, 1) == [(0, 0)]


def test_results_are_read_only_views_that_can_not_be_made_writable(muster):
    got = muster.put(np.arange(5)).get()
    assert not got.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        got.flags.writeable = True


def test_put_is_one_copy_and_scalars_are_arrays_without_dimensions(muster):
    ref = muster.put({"a": np.ones((2, 2)).T, "n": 3, "x": 1.5, "flag": True, "text": "kept", "none": None})
    got = ref.get()
    assert ref.copies == 1
    assert got["n"].shape == ()
    assert got["n"].dtype == np.int64
    assert got["flag"].dtype == np.bool_
    assert got["text"] == "kept"
    assert got["none"] is None


@pytest.mark.parametrize("bad", [np.array([object()]), np.array(["text"]), np.zeros(2, "datetime64[s]")])
def test_dtypes_that_have_no_meaning_here_are_refused(muster, bad):
    with pytest.raises(package.Invalid, match="dtype"):
        muster.put(bad)


def test_bytes_in_another_order_are_put_in_ours(muster):
    np.testing.assert_array_equal(muster.put(np.arange(4, dtype=">i4")).get(), np.arange(4))


@pytest.mark.parametrize("dtype", [np.int16, np.float64, np.complex128])
def test_an_array_that_is_not_aligned_is_copied_once(muster, dtype):
    def unaligned(make):
        width = np.dtype(dtype).itemsize
        array = make(4 * width + 1)[1:].view(dtype)
        array[:] = range(4)
        return array

    @muster.collective_input
    def made():
        return unaligned(lambda count: np.empty(count, np.uint8))

    ref = made()
    assert ref.copies == 1
    np.testing.assert_array_equal(ref.get(), np.arange(4, dtype=dtype))
    sealed = muster.seal(unaligned(lambda count: muster.empty(count, np.uint8)))
    assert sealed.copies == 1
    np.testing.assert_array_equal(sealed.get(), np.arange(4, dtype=dtype))


def test_a_call_that_passes_much_through_the_hook_returns_little_without_a_copy(muster):
    def busy():
        total = np.zeros(1 << 18)
        for step in range(200):
            total = total + np.full(1 << 18, step)
        return total

    ref = deposited(busy)
    assert ref.copies == 0
    assert ref.get()[0] == sum(range(200))
    assert _runtime.connection().alive


def test_a_small_part_of_a_large_array_is_copied_so_that_the_rest_is_free_again(muster):
    ref = deposited(lambda: np.ones(8 << 20)[5:8])
    assert ref.copies == 1
    np.testing.assert_array_equal(ref.get(), np.ones(3))


def test_parts_that_make_up_most_of_an_array_are_taken_over(muster):
    def halves():
        base = np.arange(1 << 20)
        return {"low": base[: 1 << 19], "high": base[1 << 19 :]}

    ref = deposited(halves)
    assert ref.copies == 0
    np.testing.assert_array_equal(ref.get()["high"], np.arange(1 << 19, 1 << 20))


NAMED = {"beside it": []}
GLOBAL = np.ones(3)


class Model:
    w = None


class Touchy(dict):
    """Any ordinary question to it ends the process that asks."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


def test_why_leaves_were_copied_runs_no_code_of_what_keeps_them(muster):
    touchy = Touchy()

    @muster.collective_input
    def produce():
        array = np.ones(3)
        touchy["key"] = array
        return array

    ref = produce()
    assert ref.copies == 1
    assert "['key'] of a dict" in ref.copy_reasons[""]


def test_why_leaves_were_copied(muster):
    model = Model()

    @muster.collective_input
    def produce():
        NAMED["the key"] = np.ones(3)
        model.w = np.ones(3)
        large = np.ones(1 << 17)
        ordered = np.ones((3, 2))
        return {
            "free": np.ones(3),
            "kept": NAMED["the key"],
            "layers": [model.w, {"b": GLOBAL}],
            "part": large[:3],
            "order": ordered.T,
            "swapped": np.ones(3, ">f8"),
            "elsewhere": np.frombuffer(bytearray(24)),
            "number": 3.0,
        }

    ref = produce()
    reasons = ref.copy_reasons
    assert ref.copies == len(reasons) == 7
    assert "['the key'] of a dict" in reasons["kept"]
    assert "`w` of a Model" in reasons["layers[0]"]
    assert f"`GLOBAL` of module {__name__}" in reasons["layers[1].b"]
    assert "small part" in reasons["part"]
    assert "C order" in reasons["order"]
    assert "byte order" in reasons["swapped"]
    assert "not allocated in the call" in reasons["elsewhere"]
    (reason,) = muster.collective_input(lambda: muster.put(np.ones(3)))().copy_reasons.values()
    assert "a ref has it" in reason
    stored = muster.put(np.ones(3))
    with muster.group("reasons", rank=0, world_size=1) as group:
        for give in (stored.get, lambda: stored.get()[1:], lambda: group.allreduce(np.ones(3)).result()):
            (reason,) = muster.collective_input(give)().copy_reasons.values()
            assert "it is a view of an object in the store: return the ref itself" in reason
    (reason,) = muster.collective_input(in_another_thread)().copy_reasons.values()
    assert "a thread of the call" in reason
    for value in (np.ones(3), {"a": np.ones(3), "b": [np.ones(3)]}):
        (reason,) = muster.put(value).copy_reasons.items()
        assert (reason[0], "put() copies" in reason[1]) == ("", True)
    assert muster.put(3.0).copy_reasons == {}
    assert muster.collective_input(lambda: np.ones(3))().copy_reasons == {}


def test_what_exceeds_a_calls_share_is_told(own_daemon):
    assert run_ranks(own_daemon, _exceed, 1) == [(1, True)]


def test_arrays_that_were_resized_and_freed_are_no_part_of_a_calls_share(muster):
    quarter = package.status()["memory_bytes"] // 4
    size = 8 << 20

    @package.collective_input
    def produce():
        for _ in range(quarter // size + 1):
            array = np.empty(size, np.uint8)
            array.resize(1, refcheck=False)
        del array
        return np.ones(size, np.uint8)

    ref = produce()
    assert ref.copies == 0, ref.copy_reasons


def _exceed(rank):
    quarter = package.status()["memory_bytes"] // 4

    @package.collective_input
    def produce():
        return [np.ones(quarter - (1 << 20), np.uint8), np.ones(2 << 20, np.uint8)]

    ref = produce()
    return ref.copies, "more than a quarter" in ref.copy_reasons["[1]"]
