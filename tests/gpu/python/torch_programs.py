"""What programs do with PyTorch in decorated calls on GPUs. `python torch_programs.py NAME` runs one.

They use PyTorch's public names only, and so run with PyTorch itself, and with what stands in for it (stand_ins/).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from typing import Any

import muster
import numpy as np
import torch
from in_store import DEVICE, MIB, check_left_in_place, is_about, on_gpu, used_bytes


def made(mib: float, value: float = 1.0, device: str = DEVICE) -> Any:
    return torch.full((int(mib * MIB / 4),), value, dtype=torch.float32, device=device)


def holds_only(array: Any, value: float) -> bool:
    return bool((array.cpu().numpy() == value).all())


def large_tensor() -> None:
    ref = on_gpu(lambda: made(12, 7.0))()
    assert (ref.copies, ref.copy_reasons, ref.device) == (0, {}, DEVICE)
    assert type(ref.get()) is torch.Tensor
    assert holds_only(ref.get(), 7.0)


def many_tensors_in_shared_blocks() -> None:
    """PyTorch puts tensors below 10 MiB into blocks of 20 MiB, and those up to 1 MiB into blocks of 2 MiB."""
    ref = on_gpu(lambda: {"large": [made(4, part) for part in range(5)], "small": [made(0.5, 9.0) for _ in range(4)]})()
    assert (ref.copies, ref.copy_reasons) == (0, {})
    value = ref.get()
    assert all(holds_only(tensor, part) for part, tensor in enumerate(value["large"]))
    assert all(holds_only(tensor, 9.0) for tensor in value["small"])


def a_small_part_of_a_block() -> None:
    ref = on_gpu(lambda: made(4, 5.0))()
    assert ref.copies == 1
    assert "small part" in ref.copy_reasons[""]
    assert holds_only(ref.get(), 5.0)


def two_names_for_one_tensor() -> None:
    def twice() -> Any:
        tensor = made(16, 3.0)
        return [tensor, {"again": tensor}]

    ref = on_gpu(twice)()
    assert (ref.copies, ref.copy_reasons) == (0, {})
    assert holds_only(ref.get()[1]["again"], 3.0)


def views_of_a_forgotten_tensor() -> None:
    def parts() -> Any:
        tensor = made(16, 3.0)
        return [tensor[: MIB // 4], tensor[MIB // 4 :]]

    ref = on_gpu(parts)()
    assert (ref.copies, ref.copy_reasons) == (0, {})
    assert holds_only(ref.get()[1], 3.0)


def elements_in_another_order() -> None:
    def transposed() -> Any:
        matrix = torch.full((1024, 4096), 2.0, device=DEVICE)
        matrix[:1].fill_(1.0)
        return matrix.T

    ref = on_gpu(transposed)()
    assert ref.copies == 1
    assert "C order" in ref.copy_reasons[""]
    got = ref.get().cpu().numpy()
    assert got.shape == (4096, 1024)
    assert (got[:, 0] == 1.0).all()
    assert (got[:, 1:] == 2.0).all()


class Keeper:
    """Its calls return something of which it keeps a part."""

    kept: Any = None

    @on_gpu
    def tensor(self) -> Any:
        self.kept = made(16, 1.0)
        return self.kept

    @on_gpu
    def view(self) -> Any:
        tensor = made(16, 1.0)
        self.kept = tensor[4:]
        return {"whole": tensor}

    @on_gpu
    def alias(self) -> Any:
        tensor = made(16, 1.0)
        self.kept = tensor.detach()
        return tensor

    @on_gpu
    def container(self) -> Any:
        self.kept = [made(16, 1.0)]
        return self.kept

    @on_gpu
    def storage(self) -> Any:
        tensor = made(16, 1.0)
        self.kept = tensor.untyped_storage()
        return tensor


def what_is_kept_is_copied() -> None:
    for name in ("tensor", "view", "alias", "container", "storage"):
        keeper = Keeper()
        ref = getattr(keeper, name)()
        assert ref.copies == 1, name
        assert all("something outside" in reason for reason in ref.copy_reasons.values()), name
        kept = keeper.kept[0] if name == "container" else keeper.kept
        if name != "storage":
            kept.fill_(0.0)
        value = ref.get()
        value = value["whole"] if name == "view" else value[0] if name == "container" else value
        assert holds_only(value, 1.0), name


def later_tensors_leave_it_alone() -> None:
    """Its block is free for PyTorch when the call is over, and never used by it again."""

    def calculated() -> Any:
        for value in range(3):
            temporary = made(16, value)
            del temporary
        return made(16, 8.0)

    ref = on_gpu(calculated)()
    assert ref.copies == 0
    others = [made(16, -1.0) for _ in range(4)]
    more = on_gpu(lambda: [made(16, -2.0) for _ in range(2)])()
    assert holds_only(ref.get(), 8.0)
    assert holds_only(more.get()[1], -2.0)
    del others


def memory_comes_back() -> None:
    """A program that repeats a call takes no more memory of the store than the first few calls."""

    @on_gpu
    def gradient() -> Any:
        temporary = made(16)
        result = made(16, 2.0)
        del temporary
        return result

    first = [gradient() for _ in range(3)]
    taken = used_bytes()
    del first
    for _ in range(20):
        assert gradient().copies == 0
        assert is_about(taken), (used_bytes(), taken)


def kept_tensors_come_back() -> None:
    """PyTorch gives the memory of what outlived its call back when its cache is emptied, on whatever thread."""
    keeper = Keeper()
    keeper.tensor()
    before = used_bytes()
    for _ in range(12):
        thread = threading.Thread(target=lambda: setattr(keeper, "kept", None))
        thread.start()
        thread.join()
        thread = threading.Thread(target=torch.cuda.empty_cache)
        thread.start()
        thread.join()
        assert on_gpu(lambda: made(16, 4.0))().copies == 0
        assert is_about(before), (used_bytes(), before)
        keeper.tensor()


def beyond_the_share() -> None:
    """Tensors that a call keeps count until they are gone. What is too much comes from elsewhere, and is copied."""
    kept: list[Any] = []

    @on_gpu
    def keep() -> Any:
        kept.append(made(24))
        return made(24, 2.0)

    reasons = []
    for _ in range(6):
        ref = keep()
        reasons += ref.copy_reasons.values()
        assert holds_only(ref.get(), 2.0)
    assert any("more than a quarter of the GPU" in reason for reason in reasons), reasons
    assert all(holds_only(tensor, 1.0) for tensor in kept)


def a_full_store() -> None:
    assert on_gpu(lambda: made(16))().copies == 0
    arrays: list[Any] = []
    with contextlib.suppress(muster.OutOfMemory):
        while True:
            arrays.append(muster.empty(16 * MIB, np.uint8, device=DEVICE, timeout=0))

    @on_gpu
    def gradient() -> Any:
        tensor = made(16, 6.0)
        arrays.clear()  # so that there is room for the copy
        return tensor

    ref = gradient()
    assert ref.copies == 1
    assert "was full" in ref.copy_reasons[""]
    assert holds_only(ref.get(), 6.0)


def a_call_in_a_call() -> None:
    """PyTorch allocates in the outer call's pool, which goes on: nothing of it can be taken over yet."""
    inner_refs = []

    @on_gpu
    def inner() -> Any:
        return made(16, 1.0)

    @on_gpu
    def outer() -> Any:
        inner_refs.append(inner())
        return made(16, 2.0)

    ref = outer()
    assert (ref.copies, inner_refs[0].copies) == (0, 1)
    assert holds_only(ref.get(), 2.0)
    assert holds_only(inner_refs[0].get(), 1.0)


def a_call_that_fails() -> None:
    @on_gpu
    def fail() -> Any:
        tensor = made(16)
        raise KeyError(str(tensor.shape))

    with contextlib.suppress(KeyError):
        fail()
    assert on_gpu(lambda: made(16, 3.0))().copies == 0


def threads() -> None:
    refs: list[Any] = []

    def work(value: float) -> None:
        for _ in range(5):
            refs.append((value, on_gpu(lambda: [made(12, value), made(0.5, value), made(0.75, value)])()))

    workers = [threading.Thread(target=work, args=(float(number),)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(refs) == 15
    for value, ref in refs:
        assert all(holds_only(tensor, value) for tensor in ref.get())


def an_awaited_call() -> None:
    """Other tasks of its thread run meanwhile, and would allocate in its pool."""

    @muster.collective_input(device=DEVICE)
    async def gradient() -> Any:
        return made(16, 5.0)

    ref = asyncio.run(gradient())
    assert ref.copies == 1
    assert holds_only(ref.get(), 5.0)


def other_gpus_and_the_host() -> None:
    @on_gpu
    def mixed() -> Any:
        return {"here": made(16, 1.0), "there": made(16, 2.0, "cuda:1"), "host": np.ones(3)}

    ref = mixed()
    assert ref.copies == 2
    assert set(ref.copy_reasons) == {"there", "host"}
    assert holds_only(ref.get()["there"], 2.0)


def on_the_second_gpu() -> None:
    ref = muster.collective_input(device="cuda:1")(lambda: made(16, 4.0, "cuda:1"))()
    assert (ref.copies, ref.device) == (0, "cuda:1")
    assert holds_only(ref.get(), 4.0)


def autograd_works_on_the_calls_thread() -> None:
    weights = made(16, 0.0).requires_grad_()
    ref = on_gpu(lambda: torch.autograd.grad(weights.exp(), weights, made(16, 3.0))[0])()
    assert ref.copies == 0
    assert holds_only(ref.get(), 3.0)


def what_has_no_pools_is_left_alone() -> None:
    """CUDA's own asynchronous allocator has none, and a graph that is captured writes to its memory later."""
    for name, answer in (("get_allocator_backend", "cudaMallocAsync"), ("is_current_stream_capturing", True)):
        asked = getattr(torch.cuda, name)
        setattr(torch.cuda, name, lambda answer=answer: answer)
        ref = on_gpu(lambda: made(16, 4.0))()
        setattr(torch.cuda, name, asked)
        assert ref.copies == 1, name
        assert holds_only(ref.get(), 4.0), name
    assert on_gpu(lambda: made(16, 4.0))().copies == 0


def a_child_by_fork() -> None:
    gradient = on_gpu(lambda: np.ones(3))
    assert on_gpu(lambda: made(16))().copies == 0
    child = os.fork()
    if child == 0:
        code = 1
        try:
            gradient()
        except muster.Invalid as error:
            code = 0 if "forked" in str(error) else 2
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def a_daemon_that_died() -> None:
    kept: list[Any] = []

    @on_gpu
    def gradient() -> Any:
        kept.append(made(16, 1.0))
        os.kill(muster.status()["pid"], signal.SIGKILL)
        return [made(16, 2.0), kept[0]]

    try:
        gradient()
    except muster.Error:
        assert holds_only(kept.pop(), 1.0)
    else:
        raise AssertionError("the result is nowhere")


def an_op() -> None:
    group = muster.group("torch", rank=0, world_size=1)
    total = group.allreduce(on_gpu(lambda: [made(12, 2.0)])()).result()
    assert holds_only(total[0], 2.0)


def empty_tensors() -> None:
    """They have no address by which the driver would know their GPU."""
    assert muster.put(made(0)).device == DEVICE
    found = muster.put({"empty": made(0), "other": made(1)}).get()["empty"]
    assert type(found) is torch.Tensor
    assert (found.device.type, tuple(found.shape)) == ("cuda", (0,))


def left_in_place() -> None:
    check_left_in_place(made(12, 3.0), 3.0, holds_only)


if __name__ == "__main__":
    muster.init()
    globals()[sys.argv[1]]()
    gc.collect()
    torch.cuda.empty_cache()
