"""What programs do with CuPy in decorated calls on GPUs. `python cupy_programs.py NAME` runs one.

They use CuPy's public names only, and so run with CuPy itself, and with what stands in for it (stand_ins/).
"""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import cupy
import muster
import numpy as np
from in_store import MIB, check_left_in_place, is_about, on_gpu, used_bytes


def made(mib: float, value: float = 1.0) -> Any:
    return cupy.full((int(mib * MIB / 4),), value, dtype=cupy.float32)


def holds_only(array: Any, value: float) -> bool:
    return bool((array.get() == value).all())


def arrays_of_all_sizes() -> None:
    ref = on_gpu(lambda: {"a": made(8, 7.0), "b": [made(0.001, 2.0), made(0.1, 3.0)]})()
    assert (ref.copies, ref.copy_reasons) == (0, {})
    value = ref.get()
    assert type(value["a"]) is cupy.ndarray
    assert holds_only(value["a"], 7.0)
    assert holds_only(value["b"][0], 2.0)
    assert holds_only(value["b"][1], 3.0)


def views() -> None:
    def parts() -> Any:
        whole = made(8, 4.0)
        return {"first": whole[: MIB // 4], "rest": whole[MIB // 4 :]}

    ref = on_gpu(parts)()
    assert (ref.copies, ref.copy_reasons) == (0, {})
    assert holds_only(ref.get()["rest"], 4.0)


def without_elements() -> None:
    ref = on_gpu(lambda: cupy.full((0, 3), 1.0, dtype=cupy.float32))()
    assert (ref.copies, ref.shape) == (0, (0, 3))


class Keeper:
    """Its calls return something of which it keeps a part."""

    kept: Any = None

    @on_gpu
    def array(self) -> Any:
        self.kept = made(8)
        return self.kept

    @on_gpu
    def view(self) -> Any:
        array = made(8)
        self.kept = array[4:]
        return array

    @on_gpu
    def base(self) -> Any:
        self.kept = made(8)
        return self.kept[1:]

    @on_gpu
    def pointer(self) -> Any:
        array = made(8)
        self.kept = array.data
        return array

    @on_gpu
    def memory(self) -> Any:
        array = made(8)
        self.kept = array.data.mem
        return array


def what_is_kept_is_copied() -> None:
    for name in ("array", "view", "base", "pointer", "memory"):
        keeper = Keeper()
        ref = getattr(keeper, name)()
        assert ref.copies == 1, name
        assert "something outside" in ref.copy_reasons[""], name
        if isinstance(keeper.kept, cupy.ndarray):
            keeper.kept.fill(0.0)
        assert holds_only(ref.get(), 1.0), name


def later_arrays_leave_it_alone() -> None:
    """Its chunk is free for CuPy when the call is over, and never used by it again."""

    def calculated() -> Any:
        for value in range(3):
            temporary = made(8, value)
            del temporary
        return made(8, 8.0)

    ref = on_gpu(calculated)()
    assert ref.copies == 0
    others = [made(8, -1.0) for _ in range(4)]
    more = on_gpu(lambda: [made(8, -2.0) for _ in range(2)])()
    assert holds_only(ref.get(), 8.0)
    assert holds_only(more.get()[1], -2.0)
    del others


def memory_comes_back() -> None:
    """A program that repeats a call takes no more memory of the store than the first few calls."""
    keeper = Keeper()
    first = [keeper.array() for _ in range(3)]
    taken = used_bytes()
    del first
    for _ in range(20):
        keeper.array()
        assert is_about(taken), (used_bytes(), taken)


def what_is_kept_comes_back_on_another_thread() -> None:
    keeper = Keeper()
    keeper.array()
    taken = used_bytes()
    for _ in range(20):
        thread = threading.Thread(target=lambda: setattr(keeper, "kept", None))
        thread.start()
        thread.join()
        assert on_gpu(lambda: made(8, 4.0))().copies == 0
        assert is_about(taken), (used_bytes(), taken)
        keeper.array()


def beyond_the_share() -> None:
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
    assert all(holds_only(array, 1.0) for array in kept)


def a_call_in_a_call() -> None:
    inner_refs = []

    @on_gpu
    def inner() -> Any:
        return made(8, 1.0)

    @on_gpu
    def outer() -> Any:
        inner_refs.append(inner())
        return made(8, 2.0)

    ref = outer()
    assert (ref.copies, inner_refs[0].copies) == (0, 1)
    assert holds_only(ref.get(), 2.0)
    assert holds_only(inner_refs[0].get(), 1.0)


def other_gpus_and_the_host() -> None:
    @on_gpu
    def mixed() -> Any:
        with cupy.cuda.Device(1):  # it is "cuda:1" for Muster
            there = made(8, 2.0)
        return {"here": made(8, 1.0), "there": there, "host": np.ones(3)}

    ref = mixed()
    assert ref.copies == 2
    assert set(ref.copy_reasons) == {"there", "host"}
    assert holds_only(ref.get()["there"], 2.0)


def left_in_place() -> None:
    check_left_in_place(made(12, 3.0), 3.0, holds_only)


if __name__ == "__main__":
    muster.init()
    globals()[sys.argv[1]]()
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
