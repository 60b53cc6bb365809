"""What stands for this process in a group of torch's: which class that is depends on the version of torch."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from muster.errors import Invalid
from muster.torch import _versions
from muster.torch._calls import Calls
from muster.torch._seat_base import NAME, SeatBase
from muster.torch._uncompiled import never_compiled
from muster.torch._work import MusterWork

Seat: Any
seat_of: Any
if _versions.has_backends():
    from muster.torch._backend import MusterBackend as Seat
    from muster.torch._backend import seat_of
else:
    from muster.torch._process_group import MusterProcessGroup as Seat
    from muster.torch._process_group import seat_of
never_compiled(SeatBase, Calls, Seat, MusterWork)


def seat(group: Any = None) -> Any:
    """Returns this process's seat in a group of ``torch.distributed``; by default in the one of all ranks.

    Its ``muster_group`` is the ``muster.Group``, for everything that torch has no name for. Its ``errored()`` is
    the error of the op that failed last. It is the process group itself with torch 2.13, and its backend with 2.14.

    Raises:
        Invalid: there is no such group, or it has another backend.
    """
    if group is None:
        if not dist.is_initialized():
            raise Invalid("there is no process group", 'call torch.distributed.init_process_group("muster") first')
        group = dist.group.WORLD
    found = seat_of(group)
    if found is None:
        raise Invalid(f"{group!r} is no group of the backend 'muster'", 'make it with backend="muster"')
    return found


def register() -> None:
    """Makes the backend known to the torch of this process."""
    dist.Backend.register_backend(NAME, Seat, devices=["cpu", "cuda"])
