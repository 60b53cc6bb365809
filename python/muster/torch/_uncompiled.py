"""Keeps ``torch.compile`` out of code of ours, which calls the daemon: there is nothing in it for a graph."""

from __future__ import annotations

import types
from typing import Any

import torch


def never_compiled(*kinds: type) -> None:
    """Lets ``torch.compile`` call the methods of classes as they are, as it does with backends in C++.

    It does what ``torch.compiler.disable`` does, which would import the compiler: that takes a second.
    """
    frames: Any = torch._C._dynamo.eval_frame
    skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
    for kind in kinds:
        for function in vars(kind).values():
            if isinstance(function, types.FunctionType):
                function._torchdynamo_disable = True  # type: ignore[attr-defined]
                frames.set_code_exec_strategy(function.__code__, skip)
