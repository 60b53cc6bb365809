"""What programs with arrays of a library on a GPU have in common, whichever library it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import muster

MIB = 1 << 20
DEVICE = "cuda:0"
PATIENCE_S = 30.0
SOME_SEGMENTS = 64 * MIB


def used_bytes(device: str = DEVICE) -> int:
    return {gpu["device"]: gpu["memory_used_bytes"] for gpu in muster.status()["gpus"]}[device]


def is_about(before: int) -> bool:
    """Whether not much more is used. A call that comes before the news of what is free takes another segment."""
    return used_bytes() <= before + SOME_SEGMENTS


def on_gpu(function: Any) -> Any:
    return muster.collective_input(device=DEVICE)(function)


def check_left_in_place(array: Any, value: float, holds_only: Callable[[Any, float], bool]) -> None:
    """What a library has allocated outside of a call stays there, and takes nothing of the store.

    Args:
        array: the only name of it, full of ``value``.
    """
    ref = muster.put({"a": array}, in_place=True)
    assert (ref.copies, ref.copy_reasons) == (0, {})
    assert muster.status()["in_place"] == 1
    found = ref.get()["a"]
    assert type(found) is type(array)
    assert holds_only(found, value)
    assert holds_only(muster.allreduce_refs([ref, ref]).result()["a"], 2 * value)
    del ref, found
    deadline = time.monotonic() + PATIENCE_S
    while muster.status()["in_place"]:
        assert time.monotonic() < deadline
    assert holds_only(array, value)
