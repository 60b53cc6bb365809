"""Sums of sparse tensors: every rank gets all ranks' elements, and adds them up in rank order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from muster.errors import Invalid, Mismatch

Tensor = Any


def is_sparse(tensor: Tensor) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.layout is torch.sparse_coo and tensor.device.type == "cpu"


def given(tensor: Tensor, op: str) -> list[Any]:
    """Returns what a rank gives of a sparse tensor: shape, indices and values."""
    if op != "sum":
        raise Invalid(f"sparse tensors are summed only, and the reduce op is {op!r}", "use ReduceOp.SUM")
    found = tensor.detach().coalesce()
    if found.dtype is torch.bfloat16:
        raise Invalid("sparse tensors of bfloat16 are not for the backend 'muster'", "give float32")
    return [torch.tensor(found.shape).numpy(), found.indices().numpy(), found.values().contiguous().numpy()]


def write_sum(tensor: Tensor, values: Sequence[Any]) -> None:
    """Makes a tensor the sum of what all ranks gave.

    Raises:
        Mismatch: ranks gave other shapes or dtypes.
    """
    parts = []
    for rank, (shape, indices, elements) in enumerate(values):
        part = torch.sparse_coo_tensor(
            torch.from_numpy(indices.copy()), torch.from_numpy(elements.copy()), tuple(shape), is_coalesced=True
        )
        if part.shape != tensor.shape or part.dtype is not tensor.dtype:
            raise Mismatch(
                f"rank {rank} gives a sparse tensor of {part.dtype} and shape {tuple(part.shape)}, and this rank one of"
                f" {tensor.dtype} and shape {tuple(tensor.shape)}",
                "give tensors of equal shape and dtype on all ranks",
                [rank],
            )
        parts.append(part)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    with torch.no_grad():  # detach() would make a tensor with indices of its own
        tensor.copy_(total.coalesce())
