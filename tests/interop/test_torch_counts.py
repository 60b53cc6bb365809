"""PyTorch's own counts say whether anything else uses a tensor's memory. They are the same on the host and on GPUs."""

from __future__ import annotations

import gc

import pytest
import torch
from muster._gpu_allocators import _torch_counts_are_known, are_sole, holds


def fresh() -> torch.Tensor:
    return torch.ones(6)


def result_of_autograd() -> torch.Tensor:
    return torch.ones(6, requires_grad=True) * 2


def gradient() -> torch.Tensor:
    weights = torch.ones(6, requires_grad=True)
    return torch.autograd.grad((weights * weights).sum(), weights)[0]


@pytest.mark.parametrize(
    "make",
    [
        fresh,
        result_of_autograd,
        gradient,
        lambda: fresh()[2:],
        lambda: fresh()[2:][1:],
        lambda: fresh().reshape(2, 3),
        lambda: fresh().detach(),
        lambda: fresh().view(torch.int32),
    ],
)
def test_what_nobody_else_has(make):
    assert are_sole([make()]) == [True]
    assert holds(make()) == []


def test_tensors_that_share_their_memory():
    made = fresh()
    parts = [made[:2], made[2:]]
    assert are_sole(parts) == [False, False]
    del made
    assert are_sole(parts) == [True, True]
    assert are_sole(parts[:1]) == [False]
    whole = fresh()
    assert are_sole([whole, whole[1:], whole]) == [True, True, True]
    assert are_sole([fresh(), parts[0]]) == [True, False]


@pytest.mark.parametrize(
    "keep",
    [
        lambda tensor: tensor[1:],
        lambda tensor: tensor.detach(),
        lambda tensor: tensor.untyped_storage(),
        lambda tensor: tensor.__dlpack__(),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.view(torch.int32),
        lambda tensor: torch.nn.Parameter(tensor),
    ],
)
def test_what_somebody_else_has(keep):
    tensor = fresh()
    assert are_sole([tensor]) == [True]
    kept = keep(tensor)
    assert are_sole([tensor]) == [False]
    del kept
    gc.collect()
    assert are_sole([tensor]) == [True]


def test_what_autograd_saved():
    saved = result_of_autograd().exp()
    assert are_sole([saved]) == [False]
    argument = result_of_autograd()
    total = (argument * argument).sum()
    assert are_sole([argument]) == [False]
    del total
    assert are_sole([argument]) == [True]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_counts_are_known_in_every_mode(mode):
    with mode():
        assert _torch_counts_are_known.__wrapped__(torch)
        assert are_sole([fresh()]) == [True]
        tensor = fresh()
        view = tensor[1:]
        assert are_sole([tensor]) == are_sole([view]) == [False]


def test_other_kinds_of_tensors_are_unknown():
    assert holds(torch.nn.Parameter(fresh())) is None
    assert holds([1]) is None
