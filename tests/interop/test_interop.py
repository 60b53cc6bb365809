"""Arrays of other libraries, in and out: right values, right ``copies``, and no write by them that others see."""

from __future__ import annotations

import jax
import ml_dtypes
import numpy as np
import pandas
import pytest
import torch

TORCH_DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]


def address_of(tensor) -> int:
    return tensor.data_ptr() if isinstance(tensor, torch.Tensor) else tensor.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_a_tensor_comes_back_as_a_tensor(muster, dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    ref = muster.put(tensor)
    assert ref.copies == 1
    got = ref.get()
    assert isinstance(got, torch.Tensor)
    assert got.dtype is dtype
    assert torch.equal(got, tensor)


def test_what_a_function_returns_as_a_tensor_costs_one_copy(muster):
    @muster.collective_input
    def gradient():
        return {"w": torch.ones(3), "b": [torch.zeros(2, dtype=torch.bfloat16)]}

    ref = gradient()
    assert ref.copies == 2
    got = ref.get()
    assert torch.equal(got["w"], torch.ones(3))
    assert got["b"][0].dtype is torch.bfloat16


def test_tensors_are_reduced(muster):
    refs = [muster.put({"w": torch.full((4,), float(rank))}) for rank in range(4)]
    got = muster.allreduce_refs(refs, op="mean").result()
    assert torch.equal(got["w"], torch.full((4,), 1.5))


@pytest.mark.parametrize("make", [lambda t: t.t(), lambda t: t[::2], lambda t: t.expand(2, 4, 4), lambda t: t.conj()])
def test_strided_and_lazy_tensors_are_made_dense(muster, make):
    tensor = make(torch.complex(torch.arange(16.0), torch.ones(16)).reshape(4, 4))
    assert torch.equal(muster.put(tensor).get(), tensor.resolve_conj())


def test_tensors_that_want_a_gradient_and_parameters(muster):
    layer = torch.nn.Linear(3, 2)
    got = muster.put(layer.state_dict()).get()
    assert type(got).__name__ == "OrderedDict"
    assert torch.equal(got["weight"], layer.weight)
    assert not muster.put(layer.weight).get().requires_grad
    layer.load_state_dict(got)


def test_sparse_and_meta_tensors_are_refused(muster):
    with pytest.raises(muster.Invalid, match="layout"):
        muster.put(torch.eye(3).to_sparse())
    with pytest.raises(muster.Invalid, match="meta"):
        muster.put(torch.ones(3, device="meta"))


def test_writing_through_torch_changes_nothing_but_this_view(muster):
    ref = muster.put(np.zeros(100_000))
    tensor = torch.from_dlpack(ref)
    tensor.fill_(7)
    assert tensor.sum() == 700_000
    np.testing.assert_array_equal(ref.get(), 0)
    assert torch.from_dlpack(ref).sum() == 0
    of_torch = muster.put(torch.zeros(100_000))
    of_torch.get().fill_(7)
    assert of_torch.get().sum() == 0


def test_what_was_dirtied_is_clean_when_the_memory_is_used_again(muster):
    for value in range(20):
        ref = muster.put(np.full(100_000, value))
        tensor = torch.from_dlpack(ref)
        assert torch.all(tensor == value)
        tensor.fill_(-1)


def test_a_tensor_keeps_its_object(muster):
    tensor = torch.from_dlpack(muster.put(np.arange(100_000)))
    for value in range(10):
        muster.put(np.full(100_000, value)).get()
    assert torch.equal(tensor, torch.arange(100_000))


def test_results_go_out_without_a_copy(muster):
    result = muster.allreduce_refs([muster.put(np.ones(100_000, np.float32))] * 2).result()
    assert not result.flags.writeable
    capsule = np.from_dlpack(muster.put(result))
    np.testing.assert_array_equal(capsule, 2)
    first, second = (torch.from_dlpack(muster.put(np.ones(100_000))) for _ in range(2))
    assert address_of(first) != address_of(second)


def test_out_takes_tensors(muster):
    target = torch.zeros(4)
    group = muster.group("interop-out", rank=0, world_size=1)
    group.allreduce(torch.ones(4), out=target).result()
    assert torch.equal(target, torch.ones(4))
    group.leave()


def test_jax_arrays_in_and_out(muster):
    array = jax.numpy.arange(6.0).reshape(2, 3)
    ref = muster.put({"x": array})
    got = ref.get()["x"]
    assert isinstance(got, jax.Array)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(array))
    total = muster.allreduce_refs([ref, ref]).result()["x"]
    assert isinstance(total, jax.Array)
    np.testing.assert_array_equal(np.asarray(total), np.asarray(array) * 2)
    np.testing.assert_array_equal(
        np.asarray(jax.numpy.from_dlpack(muster.put(np.arange(4.0, dtype=np.float32)))), np.arange(4)
    )


def test_jax_bfloat16(muster):
    array = jax.numpy.ones(5, dtype=jax.numpy.bfloat16)
    got = muster.allreduce_refs([muster.put(array)] * 3).result()
    assert got.dtype == jax.numpy.bfloat16
    np.testing.assert_array_equal(np.asarray(got, dtype=np.float32), 3)


def test_bfloat16_of_ml_dtypes(muster):
    @muster.collective_input
    def make():
        return np.full(5, 1.5, dtype=ml_dtypes.bfloat16)

    ref = make()
    assert ref.copies == 0
    got = muster.allreduce_refs([ref, ref]).result()
    assert got.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(got.astype(np.float32), 3)


class Exporter:
    """Has only DLPack's methods."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_any_exporter_of_dlpack(muster):
    ref = muster.put([Exporter(np.arange(5.0))])
    assert ref.copies == 1
    np.testing.assert_array_equal(ref.get()[0], np.arange(5.0))


class OnGpu:
    @property
    def __cuda_array_interface__(self):
        return {"shape": (3,), "typestr": "<f4", "data": (0, False), "version": 3}


def test_arrays_on_a_gpu_that_is_not_there_are_refused(muster):
    # Without a driver the error is about the driver; with one, about memory that is on no GPU.
    with pytest.raises(muster.Invalid, match=r"libcuda|GPU"):
        muster.put(OnGpu())


def test_what_has_labels_is_refused(muster):
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3, 4]})
    for value in (frame, frame["a"], {"x": frame}, frame.index):
        with pytest.raises(muster.Invalid, match="labels"):
            muster.put(value)
    assert muster.put(frame.to_dict("series")["a"].to_numpy()).get().tolist() == [1.0, 2.0]


def test_ranks_may_give_different_libraries_arrays(muster):
    refs = [muster.put({"w": made}) for made in (torch.ones(3), np.ones(3, np.float32), jax.numpy.ones(3))]
    assert torch.equal(muster.allreduce_refs(refs).result()["w"], torch.full((3,), 3.0))


def test_out_may_be_tensors_that_lose_nothing(muster):
    with muster.group("arguments", rank=0, world_size=1) as group:
        out = torch.zeros(3, dtype=torch.float64)
        assert group.allreduce(torch.ones(3), out=out).result() is out
        assert out.tolist() == [1.0] * 3
        half = torch.zeros(3, dtype=torch.bfloat16)
        group.allreduce(torch.ones(3, dtype=torch.bfloat16), out=half).result()
        assert half.tolist() == [1.0] * 3
        with pytest.raises(muster.Invalid, match="out= has dtype float32, the result float64"):
            group.allreduce(np.ones(3), out=torch.zeros(3))


def test_parts_of_one_tensor_are_tensors(muster):
    tensor = torch.arange(6.0)
    with muster.group("parts-of-a-tensor", rank=0, world_size=1) as group:
        for work in (group.reduce_scatter(tensor), group.all_to_all(tensor)):
            part = work.result(timeout=30)
            assert type(part) is torch.Tensor
            assert part.tolist() == tensor.tolist()
