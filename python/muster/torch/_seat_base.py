"""The life of a rank's seat in a group: how it is taken and given up, and how its ops start."""

from __future__ import annotations

import datetime
import time
import weakref
from collections.abc import Callable
from typing import Any

from muster import _muster
from muster._forfeit import forfeit
from muster._group import Group
from muster.errors import DaemonRestarted, DaemonUnavailable, Error, GroupClosed
from muster.torch import _completions, _meeting
from muster.torch._errors import copy_of, of_torch
from muster.torch._inbox import Inbox
from muster.torch._work import MusterWork

#: The backend's name in torch.
NAME = "muster"
#: Ops that all ranks have begun are over by then, unless they are very large.
_WAIT_AT_THE_END_S = 1.0
#: As long as the interpreter waits for callbacks when it ends.
_CALLBACKS_AT_THE_END_S = 5.0


#: Seats that were not given up. torch may refer to the C++ part of one only, and its calls need the part in Python.
_open: set[SeatBase] = set()


class SeatBase:
    """A rank's seat, and what all its ops have in common.

    Attributes:
        muster_group: the seat as Muster has it, for everything that torch has no name for: ``live``, ``reform()`` and
            so on.
    """

    rank: Callable[[], int]
    size: Callable[[], int]

    def _take_seat(self, store: Any, rank: int, world_size: int, timeout: datetime.timedelta) -> None:
        try:
            group = _meeting.meet(store, rank, world_size, timeout.total_seconds())
        except Error as error:
            raise of_torch(error) from None
        self._sit_down(group, timeout)

    def _sit_down(self, group: Group, timeout: datetime.timedelta) -> None:
        self.muster_group = group
        self._timeout_s = timeout.total_seconds()
        self._inbox = Inbox(self.muster_group)
        #: Those that callers still hold. There is no lock, and no function of Python is called at their ends: a handler
        #: of signals may begin some more there, and may raise.
        self._collectives: set[weakref.ref[MusterWork]] = set()
        self._last_error: BaseException | None = None
        _open.add(self)

    def _get_sequence_number_for_group(self) -> int:
        return self.muster_group.position

    # ---- time and ends ----

    def set_timeout(self, timeout: datetime.timedelta) -> None:
        """Sets the deadline of each later op."""
        self._timeout_s = timeout.total_seconds()

    def shutdown(self) -> None:
        """Gives the seat up. Ops that this rank has contributed to still complete for the others.

        Waits a second at most for collectives of this rank that are not over. Callbacks of futures have 5 seconds, a
        daemon that does not answer has 10.
        """
        if self not in _open:  # after abort()
            return
        until = time.monotonic() + _WAIT_AT_THE_END_S
        for work in [each() for each in list(self._collectives)]:
            if work is not None:
                work.end_within(until - time.monotonic())
        _completions.wait_for(id(self.muster_group), _CALLBACKS_AT_THE_END_S)
        self._leave()

    def _leave(self) -> None:
        _open.discard(self)
        try:
            self.muster_group.leave()
        except (GroupClosed, DaemonRestarted, DaemonUnavailable):
            pass  # after abort(), for instance, or the seat has ended with the daemon
        except Error as error:
            raise of_torch(error) from None

    def abort(self) -> None:
        """Gives the seat up at once: the other ranks' ops that wait for this rank fail."""
        self._leave()

    def errored(self) -> BaseException | None:
        """The error of the op that failed last. After a backward pass of DDP it tells what its RuntimeError was."""
        return self._last_error

    def _note(self, error: BaseException) -> None:
        self._last_error = copy_of(error)

    # ---- ops ----

    def _start(
        self,
        method: Any,
        start: Callable[[float], MusterWork],
        opts: Any = None,
        timeout: Any = None,
        fail: Callable[[], bool] | None = None,
        **pair: int,
    ) -> MusterWork:
        """Starts an op. One that fails before its input is there fails on the other ranks, too, with its reason.

        ``fail`` does what else there is to do for that, and returns whether it was all.
        """
        calls = _muster.calls_of_thread()
        try:
            work = _completions.in_op(lambda: start(self._limit_s(opts, timeout)))
            work.started_by(self._note, None if pair else id(self.muster_group))
        except BaseException as error:
            if _muster.calls_of_thread() == calls and not (fail is not None and fail()):
                forfeit(self.muster_group, method, error, (), pair)
            if isinstance(error, Error):
                self._note(of_torch(error))
                raise of_torch(error) from None
            raise
        if not pair:
            self._collectives.add(weakref.ref(work, self._collectives.discard))
        return work

    def _limit_s(self, opts: Any, timeout: Any) -> float:
        """Seconds that the op may take; torch's options have less than 0 where nobody has said."""
        given = getattr(opts, "timeout", None) if timeout is None else timeout
        seconds: float = given.total_seconds() if given is not None else 0.0
        return min(seconds if seconds > 0 else self._timeout_s, _meeting.DAY_S)
