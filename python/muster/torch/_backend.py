"""The backend for torch 2.14 and newer. The process group around it is torch's own."""

from __future__ import annotations

import contextlib
import datetime
import functools
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch._C import _distributed_c10d as c10d
from torch.distributed import distributed_c10d as c10d_in_python

from muster._group import Group
from muster.errors import Error, PeerLost, Timeout
from muster.torch._calls import Calls
from muster.torch._errors import of_torch
from muster.torch._seat_base import NAME


class MusterBackend(Calls, c10d.Backend):
    """A rank's seat in a group of Muster, as torch calls it.

    torch holds each work in one of its own, which passes ``wait()`` and ``get_future()`` on, and nothing else. So
    ``is_completed()`` is never true of an op that was started through ``torch.distributed``, and nobody can ask a
    ``recv`` from any source for its source.
    """

    def __init__(
        self, store: Any, rank: int, world_size: int, timeout: datetime.timedelta, group: Group | None = None
    ) -> None:
        """``group`` is a seat that was taken already. Otherwise the ranks meet in ``store``."""
        c10d.Backend.__init__(self, rank, world_size)
        self._options = self.Options(NAME, timeout)
        if group is None:
            self._take_seat(store, rank, world_size, timeout)
        else:
            self._sit_down(group, timeout)
        #: Seats in smaller groups for which some rank has not come yet. shrink() may be called again.
        self._incomplete: dict[tuple[int, ...], Group] = {}

    def getBackendName(self) -> str:
        return NAME

    @property
    def options(self) -> Any:
        """The timeout, as torch asks for it."""
        return self._options

    def set_timeout(self, timeout: datetime.timedelta) -> None:
        """Sets the deadline of each later op."""
        super().set_timeout(timeout)
        self._options._timeout = timeout

    # torch reads these. One that is not defined here would ask itself without end.
    supports_splitting = property(lambda self: True)
    supports_coalescing = property(lambda self: False)
    supports_time_estimate = property(lambda self: False)
    supports_shrinking = property(lambda self: True)
    supports_reconfigure = property(lambda self: False)
    supports_window = property(lambda self: False)

    def split(self, store: Any, ranks: Sequence[int], options: Any) -> MusterBackend:
        """Takes a seat in a group of some of these ranks, which meet in ``store``. Called in each of them."""
        timeout = self.options._timeout if options is None else options._timeout
        return MusterBackend(store, list(ranks).index(self.rank()), len(ranks), timeout)

    def shrink(self, ranks_to_exclude: Sequence[int], shrink_flags: int = 0, options: Any = None) -> MusterBackend:
        """Takes a seat in a group of all ranks but some, lost ones for instance, and waits until all have taken theirs.

        Each of the others calls it, and all may do so again after an error. Their order stays. It needs no store, and
        nothing of the ranks that are left out.

        Args:
            ranks_to_exclude: ranks of this group, not this one.
            shrink_flags: 1 (torch's ``SHRINK_ABORT``) gives this seat up at once, as ``abort()`` does: nothing waits
                for ops of this group that are on their way. After a Timeout only the same ranks can be left out then,
                after another error none.
            options: with the timeout of the new group; without it that is this one's.

        Raises:
            Timeout: some did not come within the timeout, or left out other ranks.
            PeerLost: one of them was lost meanwhile.
        """
        timeout = self.options._timeout if options is None else options._timeout
        until = time.monotonic() + self._limit_s(None, timeout)
        ranks = tuple(rank for rank in range(self.size()) if rank not in ranks_to_exclude)
        try:
            group = self._incomplete.get(ranks)
            if group is None:
                group = self._incomplete[ranks] = self.muster_group.subgroup(ranks)
            if shrink_flags:
                super().abort()
            _meet(group, ranks, until)
        except Error as error:
            if not isinstance(error, Timeout):
                self._leave_incomplete()
            raise of_torch(error) from None
        except BaseException:  # a handler of signals has raised it
            self._leave_incomplete()
            raise
        self._incomplete.pop(ranks, None)  # not there if a handler of signals has given it up
        self._leave_incomplete()
        return MusterBackend(None, group.rank, len(ranks), timeout, group)

    def shutdown(self) -> None:
        try:
            super().shutdown()
        finally:
            self._leave_incomplete()

    def abort(self) -> None:
        super().abort()
        self._leave_incomplete()

    def _leave_incomplete(self) -> None:
        while self._incomplete:
            with contextlib.suppress(Error):  # the daemon has ended, for instance
                self._incomplete.popitem()[1].leave()


def _meet(group: Group, ranks: Sequence[int], until: float) -> None:
    """Waits until these ranks have come, which are 0, 1, 2 ... in the group.

    Earlier calls of others may have failed, which this one hears of, and then tries again.
    """
    while True:
        try:
            group.barrier(timeout=max(until - time.monotonic(), 0.001)).result()
        except (Timeout, PeerLost) as error:
            if isinstance(error, Timeout) and time.monotonic() < until:
                continue
            message = f"the smaller group, where ranks {list(ranks)} are 0 to {len(ranks) - 1}, is not complete"
            missing = [ranks[rank] for rank in error.ranks]
            told = type(error)(f"{message}: {error.message}", ranks=missing)
            raise of_torch(told, "call it again on all of these, or with others left out") from None
        else:
            return


def _mended(create: Any) -> Any:
    """torch takes what ``shrink()`` returns for its own Gloo, and DDP then reads Gloo's members from it: it crashes.

    Args:
        create: makes the process group around a backend that ``shrink()`` has returned.
    """

    @functools.wraps(create)
    def created(backend: Any, *arguments: Any, **named: Any) -> Any:
        group = create(backend, *arguments, **named)
        if isinstance(backend, MusterBackend):
            kind = c10d.ProcessGroup.BackendType.CUSTOM
            for device in ("cpu", "cuda"):
                group._register_backend(torch.device(device), kind, backend)
            group._set_default_backend(kind)
        return group

    return created


c10d_in_python._create_shrunk_process_group = _mended(c10d_in_python._create_shrunk_process_group)


def seat_of(group: Any) -> MusterBackend | None:
    """This process's seat in a group of torch's; None if that has other backends only."""
    for device in ("cpu", "cuda"):
        try:
            found = group._get_backend(torch.device(device))
        except (AttributeError, RuntimeError):  # it is no group, or one without tensors of this kind
            continue
        found = getattr(found, "wrapped_pg", found)  # what torch puts around it to look for faults
        if isinstance(found, MusterBackend):
            return found
    return None
