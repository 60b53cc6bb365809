"""Sums of sparse tensors: every rank gets all ranks' elements, and adds them up in rank order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from muster.errors import Invalid, Mismatch

Tensor = Any

#: torch can't add sparse tensors of these on the host, or NumPy has no such dtype.
_REFUSED = {torch.bool, torch.float16, torch.bfloat16, torch.complex32}


def is_sparse(tensor: Tensor) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.layout is torch.sparse_coo and tensor.device.type == "cpu"


def given(tensor: Tensor, op: str) -> list[Any]:
    """Returns what a rank gives of a sparse tensor: shape, indices and values."""
    if tensor.dtype in _REFUSED:
        raise Invalid(f"sparse tensors of {tensor.dtype} are not for the backend 'muster'", "give float32, or int64")
    if op != "sum":
        raise Invalid(f"sparse tensors are summed only, and the reduce op is {op!r}", "use ReduceOp.SUM")
    found = tensor.detach().coalesce()
    return [torch.tensor(found.shape).numpy(), found.indices().numpy(), found.values().contiguous().numpy()]


def write_sum(tensor: Tensor, values: Sequence[Any]) -> None:
    """Makes a tensor the sum of what all ranks gave.

    Raises:
        Mismatch: ranks gave other shapes or dtypes.
    """
    parts = []
    for rank, (shape, indices, elements) in enumerate(values):
        part = torch.sparse_coo_tensor(
            torch.from_numpy(indices.copy()),
            torch.from_numpy(elements.copy()),
            tuple(shape),
            is_coalesced=True,
            check_invariants=False,
        )
        if _kind(part) != _kind(tensor):
            raise Mismatch(
                f"rank {rank} gives a sparse tensor of {_in_words(part)}, and this rank one of {_in_words(tensor)}",
                "give tensors of equal shape, dtype and sparse dimensions on all ranks",
                [rank],
            )
        parts.append(part)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    with torch.no_grad():  # detach() would make a tensor with indices of its own
        tensor.copy_(total.coalesce())


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.sparse_dim()


def _in_words(tensor: Tensor) -> str:
    return f"{tensor.dtype}, shape {tuple(tensor.shape)} and {tensor.sparse_dim()} sparse dimensions"
