"""What programs do with arrays on GPUs. Each function is one program; `python cases.py NAME` runs it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import subprocess
import sys
from typing import Any

import muster
import numpy as np
import pytest

IS_FAKE = "MUSTER_FAKE_GPU_DIR" in os.environ
VALUES = np.arange(20, dtype=np.float32).reshape(4, 5)


def written(values: Any = VALUES, device: str = "cuda:0") -> Any:
    values = np.asarray(values)
    array = muster.empty(values.shape, values.dtype, device=device)
    array.copy_from(values)
    return array


class Interface:
    """An array of a library that nobody here knows."""

    def __init__(self, **interface: Any) -> None:
        self.__cuda_array_interface__ = {"version": 3, **interface}


def interface_of(array: Any, **changes: Any) -> Interface:
    return Interface(**{**array.__cuda_array_interface__, **changes})


def refused(call: Any, *words: str) -> None:
    with pytest.raises(muster.Invalid) as raised:
        call()
    for word in words:
        assert word in str(raised.value)


def empty_and_seal() -> None:
    array = written()
    assert (array.shape, array.dtype, array.device, array.writable) == ((4, 5), np.float32, "cuda:0", True)
    assert (array.ndim, array.size, array.nbytes) == (2, 20, 80)
    ref = muster.seal(array)
    assert (ref.copies, ref.device, ref.shape, ref.dtype) == (0, "cuda:0", (4, 5), np.float32)
    assert not array.writable
    refused(lambda: array.copy_from(VALUES), "sealed")
    got = ref.get()
    assert isinstance(got, muster.DeviceArray)
    assert not got.writable
    assert np.array_equal(got.to_host(), VALUES)


def new_memory_is_zero() -> None:
    assert not muster.empty(1000, np.int64, device="cuda:1").to_host().any()


def seal_copies_what_somebody_else_has() -> None:
    array = written()
    keeper = {"kept": array}
    exported = array.__dlpack__()
    ref = muster.seal(array)
    assert ref.copies == 1
    assert np.array_equal(ref.get().to_host(), VALUES)
    del exported, keeper


def put_to_a_device() -> None:
    ref = muster.put({"a": VALUES, "b": [1.5, np.ones(3)]}, device="cuda:1")
    value = ref.get()
    assert value["a"].device == value["b"][0].device == value["b"][1].device == "cuda:1"
    assert np.array_equal(value["a"].to_host(), VALUES)
    assert muster.put(ref, device="cuda:1").get()["a"].device == "cuda:1"
    back = muster.put(ref, device="cpu").get()
    assert np.array_equal(back["a"], VALUES)
    assert back["b"][0] == 1.5


def put_from_a_gpu_stays_there() -> None:
    for device in ("cuda:0", "cuda:1"):
        ref = muster.put(interface_of(written(device=device)))
        assert (ref.device, ref.copies) == (device, 1)
        assert np.array_equal(ref.get().to_host(), VALUES)
    assert muster.put(written()).device == "cuda:0"
    assert muster.put(written(device="cuda:1"), device="cuda:0").device == "cuda:0"


def move() -> None:
    host = muster.put(VALUES)
    there = host.to("cuda:0")
    assert there.device == "cuda:0"
    assert np.array_equal(there.get().to_host(), VALUES)
    assert np.array_equal(there.to("cuda:1").to("cpu").get(), VALUES)
    assert np.array_equal(there.to("cuda:0").get().to_host(), VALUES)
    refused(lambda: host.to("cuda:9"), "cuda:9", "cuda:1")


def all_dtypes() -> None:
    for dtype in "?bhilBHILefdFD":
        values = np.arange(10).astype(dtype)
        got = muster.seal(written(values)).get()
        assert got.dtype == values.dtype
        assert np.array_equal(got.to_host(), values)


def bfloat16() -> None:
    import ml_dtypes

    values = np.arange(10).astype(ml_dtypes.bfloat16)
    got = muster.seal(written(values)).get()
    assert np.array_equal(got.to_host(), values)
    assert not hasattr(got, "__cuda_array_interface__")
    assert dlpack_of(got).dtype == (4, 16, 1)


def without_elements() -> None:
    ref = muster.seal(muster.empty((0, 3), device="cuda:1"))
    assert (ref.shape, ref.device) == ((0, 3), "cuda:1")
    assert ref.get().to_host().shape == (0, 3)
    assert ref.get().__dlpack_device__()[0] == 2


class Decorated:
    kept: Any = None

    @muster.collective_input(device="cuda:0")
    def fresh(self) -> Any:
        return {"a": written(), "b": [written(np.ones(3)), 2.5]}

    @muster.collective_input(device="cuda:0")
    def twice(self) -> Any:
        array = written()
        return [array, {"again": array}]

    @muster.collective_input(device="cuda:0")
    def keeps(self) -> Any:
        self.kept = written()
        return self.kept

    @muster.collective_input(device="cuda:0")
    def of_the_host(self) -> Any:
        return VALUES

    @muster.collective_input(device="cuda:0")
    def of_another_gpu(self) -> Any:
        return written(device="cuda:1")

    @muster.collective_input(device="cuda:0")
    async def awaited(self) -> Any:
        return written()


def decorated_calls() -> None:
    made = Decorated()
    ref = made.fresh()
    assert (ref.copies, ref.copy_reasons) == (0, {})
    assert np.array_equal(ref.get()["a"].to_host(), VALUES)
    both = made.twice()
    assert both.copies == 0
    assert all(np.array_equal(one.to_host(), VALUES) for one in (both.get()[0], both.get()[1]["again"]))
    kept = made.keeps()
    assert kept.copies == 1
    assert "something outside" in kept.copy_reasons[""]
    for ref in (made.of_the_host(), made.of_another_gpu()):
        assert (ref.copies, ref.device) == (1, "cuda:0")
        assert "another device" in ref.copy_reasons[""]
        assert np.array_equal(ref.get().to_host(), VALUES)
    ref = asyncio.run(made.awaited())
    assert (ref.copies, ref.device) == (0, "cuda:0")


def what_a_kept_array_holds_stays() -> None:
    """Its keeper may write it later: the object must not change."""
    made = Decorated()
    ref = made.keeps()
    assert made.kept.writable
    made.kept.copy_from(np.zeros((4, 5), np.float32))
    assert np.array_equal(ref.get().to_host(), VALUES)


def ops() -> None:
    refs = [muster.seal(written(VALUES + rank)) for rank in range(3)]
    total = muster.allreduce_refs(refs).result()
    assert total.device == "cuda:0"
    assert np.array_equal(total.to_host(), 3 * VALUES + 3)
    mean = muster.allreduce_refs(refs, op="mean").result()
    assert np.array_equal(mean.to_host(), VALUES + 1)
    parts = muster.allgather_refs(refs).result()
    assert all(np.array_equal(part.to_host(), VALUES + rank) for rank, part in enumerate(parts))
    group = muster.group("alone", rank=0, world_size=1)
    assert np.array_equal(group.allreduce(written()).result().to_host(), VALUES)


def refs_of_two_gpus() -> None:
    """One process gets the results, on the GPU of the first ref."""
    for first, other in (("cuda:0", "cuda:1"), ("cuda:1", "cuda:0")):
        refs = [muster.seal(written(VALUES + rank, device)) for rank, device in enumerate((first, other, first))]
        total = muster.allreduce_refs(refs).result()
        assert total.device == first
        assert np.array_equal(total.to_host(), 3 * VALUES + 3)
        stacked = muster.allgather_refs(refs, stack=True).result()
        assert stacked.device == first
        assert np.array_equal(stacked.to_host(), np.stack([VALUES, VALUES + 1, VALUES + 2]))
        halves = [muster.seal(written(VALUES[:2] + rank, device)) for rank, device in enumerate((first, other))]
        sums = muster.reduce_scatter_refs(halves).result()
        assert [each.device for each in sums] == [first, first]
        assert np.array_equal(sums[1].to_host(), 2 * VALUES[1:2] + 1)


def all_dtypes_and_ops_of_two_gpus() -> None:
    """Each comes out as on the host, whether NCCL has it or not."""
    for dtype in "?bhilBHILefdFD":
        values = [(np.arange(10) % 2 + rank % 2).astype(dtype) for rank in range(3)]
        on_host = [muster.put(each) for each in values]
        on_gpus = [muster.seal(written(each, f"cuda:{rank % 2}")) for rank, each in enumerate(values)]
        for op in ("sum", "prod", "min", "max", "mean", "band", "bor", "bxor", "land", "lor"):
            try:
                expected = muster.allreduce_refs(on_host, op=op).result()
            except muster.Invalid:  # the op has no meaning for the dtype
                continue
            got = muster.allreduce_refs(on_gpus, op=op).result()
            assert got.dtype == expected.dtype
            assert np.allclose(got.to_host(), expected, rtol=1e-2 if dtype == "e" else 1e-6), (dtype, op)


def out() -> None:
    import torch

    group = muster.group("alone", rank=0, world_size=1)
    there = muster.empty((4, 5), np.float32, device="cuda:0")
    on_host, tensor, on_other = np.zeros((4, 5), np.float32), torch.zeros(4, 5), written(0 * VALUES, "cuda:1")
    for into in (there, on_host, tensor, on_other):
        group.allreduce(written(), out=into).result()
    assert np.array_equal(there.to_host(), VALUES)
    assert np.array_equal(on_host, VALUES)
    assert np.array_equal(tensor.numpy(), VALUES)
    assert np.array_equal(on_other.to_host(), VALUES)
    group.allreduce(2 * VALUES, out=there).result()
    assert np.array_equal(there.to_host(), 2 * VALUES)
    muster.seal(there)
    refused(lambda: group.allreduce(written(), out=there), "read-only")
    refused(lambda: group.allreduce(written(), out=muster.empty(3, np.float32, device="cuda:0")), "shape")


def a_host_and_a_gpu_do_not_mix() -> None:
    refs = [muster.put(VALUES), muster.put(VALUES, device="cuda:0")]
    with pytest.raises(muster.Error) as raised:
        muster.allreduce_refs(refs).result()
    assert "cpu" in str(raised.value)
    assert "cuda:0" in str(raised.value)


def numpy_is_refused() -> None:
    ref = muster.put(VALUES, device="cuda:0")
    refused(lambda: np.asarray(ref), "cuda:0", "ref.to")
    refused(lambda: np.add(ref.get(), 1), "cuda:0", "to_host")


def lies() -> None:
    array = written()
    refused(lambda: muster.put(interface_of(array, data=(4096, False))), "is not")
    refused(lambda: muster.put(interface_of(array, typestr="<M8[s]")), "datetime64")
    refused(lambda: muster.put(interface_of(array, shape=(-1,))), "-1")
    for wrong in (
        {"shape": None},
        {"shape": (1.5,)},
        {"typestr": None},
        {"typestr": "x"},
        {"data": ()},
        {"data": (-1, 0)},
    ):
        refused(lambda wrong=wrong: muster.put(interface_of(array, **wrong)), "makes no sense")
    refused(lambda: array.copy_from(np.ones(3, np.float32)), "shape")
    refused(lambda: muster.put(VALUES).to(None), "device")
    with pytest.raises(TypeError):
        muster.put(muster.DeviceArray.__new__(muster.DeviceArray))
    refused(lambda: muster.put(interface_of(array, mask=array)), "mask")
    refused(lambda: muster.put(interface_of(array, strides=(4, 16))), "C order")
    refused(lambda: muster.put(interface_of(array, typestr=">f4")), "byte order")
    refused(lambda: muster.put(interface_of(array, shape=(1 << 40,))), "ends")


def a_child_by_fork_is_refused() -> None:
    ref = muster.put(VALUES, device="cuda:0")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ref.get()
        except muster.Invalid as error:
            code = 0 if "forked" in str(error) else 2
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(ref.get().to_host(), VALUES)


def a_pickled_ref() -> None:
    ref = pickle.loads(pickle.dumps(muster.put(VALUES, device="cuda:1")))
    assert ref.device == "cuda:1"
    assert np.array_equal(ref.get().to_host(), VALUES)


def pinned_of(values: Any = VALUES) -> Any:
    values = np.asarray(values)
    array = muster.empty(values.shape, values.dtype, device="pinned")
    array[...] = values
    return array


def pinned_empty_and_seal() -> None:
    array = pinned_of()
    assert type(array) is np.ndarray
    assert muster.is_pinned(array)
    assert muster.is_pinned(array[1:])
    ref = muster.seal(array)
    assert (ref.copies, ref.device, ref.shape, ref.dtype) == (0, "pinned", (4, 5), np.float32)
    assert not array.flags.writeable
    got = ref.get()
    assert np.array_equal(got, VALUES)
    assert muster.is_pinned(got) or not IS_FAKE  # not every driver pins memory that is mapped for reading
    assert not got.flags.writeable
    assert np.array_equal(np.asarray(ref), VALUES)
    assert np.array_equal(np.from_dlpack(ref), VALUES)
    assert ref.__dlpack_device__() == (1, 0)
    assert not hasattr(ref, "__cuda_array_interface__")


def pinned_without_elements() -> None:
    ref = muster.seal(muster.empty((0, 3), device="pinned"))
    assert (ref.shape, ref.device) == ((0, 3), "pinned")
    assert ref.get().shape == (0, 3)


def pinned_seal_copies_what_somebody_else_has() -> None:
    array = pinned_of()
    view = array[1:]
    ref = muster.seal(array)
    assert (ref.copies, ref.device) == (1, "pinned")
    view[...] = 0
    assert np.array_equal(ref.get(), VALUES)


def pinned_moves() -> None:
    ref = muster.put({"a": VALUES, "b": [1.5, np.ones(3)]}, device="pinned")
    value = ref.get()
    assert np.array_equal(value["a"], VALUES)
    on_gpu = ref.to("cuda:0")
    assert np.array_equal(on_gpu.get()["a"].to_host(), VALUES)
    assert np.array_equal(on_gpu.to("pinned").get()["b"][1], np.ones(3))
    assert muster.put(written(), device="pinned").device == "pinned"
    assert muster.put(pinned_of()).device == "cpu"
    assert muster.put(pinned_of(), device="cpu").device == "cpu"
    assert muster.put(VALUES).to("pinned").device == "pinned"
    array = written(np.zeros((4, 5), np.float32))
    array.copy_from(ref.get()["a"])
    assert np.array_equal(array.to_host(), VALUES)


class DecoratedPinned:
    kept: Any = None

    @muster.collective_input(device="pinned")
    def fresh(self) -> Any:
        whole = pinned_of(np.arange(100_000))
        return {"a": pinned_of(), "b": [whole, whole[10:], 2.5]}

    @muster.collective_input(device="pinned")
    def keeps(self) -> Any:
        self.kept = pinned_of()
        return self.kept

    @muster.collective_input(device="pinned")
    def of_numpy(self) -> Any:
        return VALUES + 0

    @muster.collective_input(device="pinned")
    def small_part(self) -> Any:
        return pinned_of(np.arange(100_000))[:1]

    @muster.collective_input(device="pinned")
    def of_a_gpu(self) -> Any:
        return written()

    @muster.collective_input(device="pinned")
    async def awaited(self) -> Any:
        return pinned_of()


def pinned_results_of_decorated_calls() -> None:
    made = DecoratedPinned()
    ref = made.fresh()
    assert (ref.copies, ref.copy_reasons) == (0, {})
    value = ref.get()
    assert np.array_equal(value["a"], VALUES)
    assert np.array_equal(value["b"][1], np.arange(10, 100_000))
    assert value["b"][2] == 2.5
    kept = made.keeps()
    assert (kept.copies, kept.device) == (1, "pinned")
    assert "something outside" in kept.copy_reasons[""]
    made.kept[...] = 0
    assert np.array_equal(kept.get(), VALUES)
    for ref in (made.of_numpy(), made.of_a_gpu()):
        assert (ref.copies, ref.device) == (1, "pinned")
        assert "another device" in ref.copy_reasons[""]
        assert np.array_equal(ref.get(), VALUES)
    assert "small part" in made.small_part().copy_reasons[""]
    ref = asyncio.run(made.awaited())
    assert (ref.copies, ref.device) == (0, "pinned")


def pinned_in_ops() -> None:
    refs = [muster.seal(pinned_of()), muster.put(VALUES)]
    total = muster.allreduce_refs(refs)
    assert np.array_equal(total.result(), 2 * VALUES)
    assert total.ref.device == "cpu"
    group = muster.group("pinned", rank=0, world_size=1)
    assert np.array_equal(group.allreduce(pinned_of()).result(), VALUES)
    out = pinned_of(np.zeros((4, 5), np.float32))
    group.allreduce(VALUES, out=out).result()
    assert np.array_equal(out, VALUES)
    with pytest.raises(muster.Error) as raised:
        muster.allreduce_refs([refs[0], muster.put(VALUES, device="cuda:0")]).result()
    assert "pinned" in str(raised.value)


def pinned_beyond_the_limit() -> None:
    """The store has 256 MiB, of which a process pins 64."""
    arrays = [muster.empty(16 << 20, np.uint8, device="pinned") for _ in range(6)]
    assert [muster.is_pinned(array) for array in arrays] == 4 * [True] + 2 * [False]
    arrays[-1][:] = 7
    ref = muster.seal(arrays.pop())
    assert ref.device == "pinned"
    assert (ref.to("cuda:0").get().to_host() == 7).all()


def pinned_memory_comes_back() -> None:
    address = pinned_of(np.zeros(1 << 20)).__array_interface__["data"][0]
    for _ in range(50):
        array = pinned_of(np.zeros(1 << 20))
        assert array.__array_interface__["data"][0] == address
        assert muster.is_pinned(array)
        del array


def pinned_in_a_child_by_fork() -> None:
    ref, open_array = muster.seal(pinned_of()), pinned_of()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert np.array_equal(ref.get(), VALUES)
            assert np.array_equal(open_array, VALUES)
            assert not muster.is_pinned(open_array)
            open_array[...] = -1
            refused(lambda: muster.empty(3, device="pinned"), "forked")
            del open_array
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(open_array, VALUES)
    assert muster.is_pinned(open_array)


def pinned_refusals() -> None:
    refused(lambda: muster.is_pinned(3), "array=3", "NumPy")
    refused(lambda: muster.is_pinned(muster.put(VALUES)), "ref.get()")
    refused(lambda: muster.empty(3, device="pinned:0"), "pinned:0")
    assert not muster.is_pinned(np.zeros(3))


def pinned_without_a_gpu_to_use() -> None:
    """Its environment says so, before anything opens the driver."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with pytest.raises(muster.Error) as raised:
        muster.empty(3, device="pinned")
    assert "GPU" in str(raised.value) or "CUDA" in str(raised.value)
    assert np.array_equal(muster.put(VALUES).get(), VALUES)


class DlTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]

    @property
    def dtype(self) -> tuple[int, int, int]:
        return (self.code, self.bits, self.lanes)


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DlTensor),
    ]


def in_capsule(capsule: Any, name: bytes, kind: Any) -> Any:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return kind.from_address(pointer(capsule, name))


def dlpack_of(array: Any) -> DlTensor:
    return in_capsule(array.__dlpack__(), b"dltensor", DlTensor)


def dlpack() -> None:
    array = written()
    capsule = array.__dlpack__(stream=None)
    tensor = in_capsule(capsule, b"dltensor", DlTensor)
    assert tensor.data == array.__cuda_array_interface__["data"][0]
    assert (tensor.device_type, tensor.device_id) == array.__dlpack_device__() == (2, 0)
    assert (tensor.ndim, tensor.dtype, tensor.shape[:2]) == (2, (2, 32, 1), [4, 5])
    read_only = 1
    got = muster.put(VALUES, device="cuda:0").get()
    for shown, flags in ((array, 0), (got, read_only)):
        capsule = shown.__dlpack__(max_version=(1, 0))
        assert in_capsule(capsule, b"dltensor_versioned", Versioned).flags & read_only == flags
    ref = muster.put(VALUES, device="cuda:1")
    assert ref.__dlpack_device__() == (2, 1)
    assert in_capsule(ref.__dlpack__(), b"dltensor", DlTensor).device_id == 1


def memory_comes_back() -> None:
    """A program that makes and drops arrays takes no more than the first few of them."""
    address = written(np.zeros(1 << 20)).__cuda_array_interface__["data"][0]
    for _ in range(100):
        assert written(np.zeros(1 << 20)).__cuda_array_interface__["data"][0] == address


def ls_names_devices() -> None:
    refs = [muster.put(VALUES), muster.put(VALUES, device="cuda:0")]
    told = subprocess.run(["muster", "ls"], check=True, capture_output=True, text=True).stdout
    assert "DEVICE" in told.splitlines()[0]
    assert [word for word in told.split() if word in ("cpu", "cuda:0")] == ["cpu", "cuda:0"]
    del refs


def status_counts_it() -> None:
    array = muster.empty(1 << 20, np.uint8, device="cuda:0")
    gpus = {gpu["device"]: gpu for gpu in muster.status()["gpus"]}
    assert gpus["cuda:0"]["memory_used_bytes"] >= array.nbytes


def status_counts_nccl() -> None:
    """It is beside the budget."""
    refs = [muster.seal(written(VALUES, f"cuda:{rank}")) for rank in range(2)]
    muster.allreduce_refs(refs).result()
    taken = [gpu["nccl_bytes"] for gpu in muster.status()["gpus"][:2]]
    assert taken == [1 << 20, 1 << 20] or not IS_FAKE
    told = subprocess.run(["muster", "status"], check=True, capture_output=True, text=True).stdout
    assert "beside it 1 MiB by NCCL" in told or not IS_FAKE


CASES = [
    empty_and_seal,
    new_memory_is_zero,
    seal_copies_what_somebody_else_has,
    put_to_a_device,
    put_from_a_gpu_stays_there,
    move,
    all_dtypes,
    bfloat16,
    without_elements,
    decorated_calls,
    what_a_kept_array_holds_stays,
    ops,
    refs_of_two_gpus,
    all_dtypes_and_ops_of_two_gpus,
    out,
    a_host_and_a_gpu_do_not_mix,
    numpy_is_refused,
    lies,
    a_child_by_fork_is_refused,
    a_pickled_ref,
    dlpack,
    memory_comes_back,
    ls_names_devices,
    status_counts_it,
    status_counts_nccl,
    pinned_empty_and_seal,
    pinned_without_elements,
    pinned_seal_copies_what_somebody_else_has,
    pinned_moves,
    pinned_results_of_decorated_calls,
    pinned_in_ops,
    pinned_beyond_the_limit,
    pinned_memory_comes_back,
    pinned_in_a_child_by_fork,
    pinned_refusals,
    pinned_without_a_gpu_to_use,
]

NEED_TWO_GPUS = {
    "a_pickled_ref",
    "all_dtypes_and_ops_of_two_gpus",
    "decorated_calls",
    "dlpack",
    "move",
    "new_memory_is_zero",
    "out",
    "put_from_a_gpu_stays_there",
    "put_to_a_device",
    "refs_of_two_gpus",
    "status_counts_nccl",
    "without_elements",
}

if __name__ == "__main__":
    muster.init()
    {case.__name__: case for case in CASES}[sys.argv[1]]()
