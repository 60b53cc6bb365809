"""The process group for torch 2.13, which knows no backends that are written in Python."""

from __future__ import annotations

import datetime
from typing import Any

import torch
import torch.distributed as dist

from muster.errors import Invalid
from muster.torch._calls import Calls
from muster.torch._errors import of_torch
from muster.torch._seat_base import NAME


class MusterProcessGroup(Calls, dist.ProcessGroup):  # type: ignore[misc]
    """A rank's seat in a group of Muster, as torch calls it. It stands for the whole process group."""

    def __init__(self, store: Any, rank: int, world_size: int, timeout: datetime.timedelta) -> None:
        dist.ProcessGroup.__init__(self, rank, world_size)
        self._group_name = self._group_desc = ""
        self._take_seat(store, rank, world_size, timeout)

    @property
    def _device_types(self) -> list[Any]:
        """The kinds of tensors that this group is for, as torch asks for them."""
        return [torch.device("cpu")]

    def split_group(self, *_: Any, **__: Any) -> Any:
        """Refuses: torch 2.13 would look for a backend inside of this, and crash."""
        raise of_torch(Invalid("a group of the backend 'muster' can't be split with torch 2.13", "use new_group()"))

    # ---- names: torch's own are kept by native backends ----

    def getBackendName(self) -> str:
        return NAME

    def _set_group_name(self, name: str) -> None:
        self._group_name = name

    def _set_group_desc(self, desc: str) -> None:
        self._group_desc = desc

    def getGroupName(self) -> str:
        return self._group_name

    def getGroupDesc(self) -> str:
        return self._group_desc

    @property
    def group_name(self) -> str:
        """torch's name of the group. Muster's is ``muster_group.name``."""
        return self._group_name

    @property
    def group_desc(self) -> str:
        """torch's description of the group."""
        return self._group_desc


def seat_of(group: Any) -> MusterProcessGroup | None:
    """This process's seat in a group of torch's; None if that is of another backend."""
    return group if isinstance(group, MusterProcessGroup) else None
