"""``recv`` from any source.

Muster's ``recv`` names its source. So one is made for each rank, and the first that gets something is taken. What the
others get then stays here for later calls. So a rank may have sent before this one asks for it.
"""

from __future__ import annotations

import collections
import math
import threading
import time
from typing import Any

import muster
from muster._group import Group
from muster._work import Work
from muster.errors import Error, Invalid, QuotaExceeded, Timeout
from muster.torch._meeting import DAY_S

#: A recv that nobody asked for must not end before somebody does: its sender would fail.
_LONG_S = DAY_S
_SLICE_S = 0.05
#: Recvs that nobody has taken. Each is an op in flight, of which a process has 1,024 by default.
_OPEN_MAX = 512


class Inbox:
    """What was received, or will be, for no call in particular: by rank and tag."""

    def __init__(self, seat: Group) -> None:
        self._seat = seat
        self._lock = threading.RLock()  # what asks a work may call others, who ask again
        self._waiting: dict[tuple[int, int], collections.deque[Work]] = {}

    def from_one(self, source: int, tag: int, timeout_s: float) -> Work | Expected:
        """Receives what the rank sends next."""
        with self._lock:
            earlier = self._pop(source, tag)
        if earlier is not None:
            return Expected(self, source, tag, earlier, timeout_s)
        return self._seat.recv(source, tag, timeout=timeout_s)

    def drop(self, source: int, tag: int) -> bool:
        """Lets what the rank sends next be lost, if a recv for it is there. Returns whether there is."""
        with self._lock:
            return self._pop(source, tag) is not None

    def from_any(self, tag: int, timeout_s: float) -> Arrival:
        """Receives what any other rank sends first.

        Raises:
            Invalid: there is no other rank.
            QuotaExceeded: too many tags were used for this.
        """
        if self._seat.world_size == 1:
            raise Invalid("there is no other rank to receive from", "receive in a group of more ranks")
        self.heads(tag)
        return Arrival(self, tag, timeout_s)

    def heads(self, tag: int) -> dict[int, Work]:
        """The next recv of each other rank, made if need be."""
        others = [rank for rank in range(self._seat.world_size) if rank != self._seat.rank]
        with self._lock:
            missing = sum((source, tag) not in self._waiting for source in others)
            if missing and sum(map(len, self._waiting.values())) + missing > _OPEN_MAX:
                raise QuotaExceeded(
                    f"recv from any rank was called with {len({tag for _, tag in self._waiting})} tags, and each keeps "
                    f"a recv for each of {len(others)} ranks; at most {_OPEN_MAX} are kept",
                    "use the same tags again, or name the rank to receive from",
                )
            return {source: self._head(source, tag) for source in others}

    def take(self, source: int, tag: int, work: Work) -> bool:
        """Takes a recv out. Returns False if another call has it."""
        with self._lock:
            waiting = self._waiting.get((source, tag))
            if not waiting or waiting[0] is not work:
                return False
            self._pop(source, tag)
            return True

    def put_back(self, source: int, tag: int, work: Work) -> None:
        """Leaves a recv that has got nothing yet to the next call."""
        with self._lock:
            self._waiting.setdefault((source, tag), collections.deque()).appendleft(work)

    def is_lost(self, source: int) -> bool:
        return source not in self._seat.live

    def _pop(self, source: int, tag: int) -> Work | None:
        waiting = self._waiting.get((source, tag))
        if waiting is None:
            return None
        first = waiting.popleft()
        if not waiting:
            del self._waiting[source, tag]
        return first

    def _head(self, source: int, tag: int) -> Work:
        waiting = self._waiting.get((source, tag))
        if waiting is None:
            waiting = self._waiting[source, tag] = collections.deque([self._seat.recv(source, tag, timeout=_LONG_S)])
        return waiting[0]


class Expected:
    """A recv that was made for any call, and that one call has until its deadline. It is an op for a ``MusterWork``."""

    def __init__(self, inbox: Inbox, source: int, tag: int, work: Work, timeout_s: float) -> None:
        self._inbox = inbox
        self._source = source
        self._tag = tag
        self._limit_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._work: Work | None = work
        self._lock = threading.RLock()  # what asks a work may call others, who ask again

    def done(self) -> bool:
        with self._lock:
            if self._work is None or self._work.done():
                return True
            if time.monotonic() < self._deadline:
                return False
            self._inbox.put_back(self._source, self._tag, self._work)
            self._work = None
            return True

    def wait(self, timeout: float | None = None) -> bool:
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self.done():
            work, left = self._work, min(until, self._deadline) - time.monotonic()
            if left <= 0 and until < self._deadline:
                return False
            if work is not None:
                work.wait(max(0.0, left))
        return True

    def result(self, timeout: float | None = None) -> Any:
        is_over = self.wait(timeout)
        work = self._work
        if work is None or not is_over:
            raise Timeout(
                f"recv from rank {self._source} got nothing within {self._limit_s:g} s", "let it send", [self._source]
            )
        return work.result()


class Arrival:
    """The first of several recvs. It has what a ``MusterWork`` needs of an op.

    Attributes:
        source: the rank that it came from, once it is over.
    """

    def __init__(self, inbox: Inbox, tag: int, timeout_s: float) -> None:
        self.source: int | None = None
        self._inbox = inbox
        self._tag = tag
        self._limit_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._taken: Work | None = None
        self._error: Error | None = None
        self._late = False
        self._lock = threading.RLock()  # what asks a work may call others, who ask again
        self._look()

    def done(self) -> bool:
        with self._lock:
            return self._look() or self._late

    def wait(self, timeout: float | None = None) -> bool:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self.done():
            left = min(deadline, self._deadline) - time.monotonic()
            if left <= 0 and deadline < self._deadline:
                return False
            try:
                heads = list(self._inbox.heads(self._tag).values())
            except Error:
                continue  # it is over, with this error
            pending = [work for work in heads if not work.done()]
            muster.wait(pending or heads, timeout=max(0.0, min(left, _SLICE_S)))
        return True

    def result(self, timeout: float | None = None) -> Any:
        self.wait(timeout)
        if self._error is not None:
            raise self._error
        if self._taken is None:
            raise Timeout(f"recv from any rank got nothing within {self._limit_s:g} s", "let a rank send")
        return self._taken.result()

    def _look(self) -> bool:
        """Takes the first recv that is over: got something, or was failed by its sender. One from a rank that is lost
        is taken only if all are over."""
        if self._taken is not None or self._error is not None:
            return True
        try:
            heads = self._inbox.heads(self._tag)
        except Error as error:  # this rank has left the group, for instance
            self._error = error
            return True
        for source, work in heads.items():
            if work.done() and isinstance(work.exception(), Timeout):
                self._inbox.take(source, self._tag, work)  # nobody has sent for a day; another takes its place
                heads = {**heads, source: self._inbox.heads(self._tag)[source]}
        over = {source: work for source, work in heads.items() if work.done()}
        good = [source for source, work in over.items() if work.exception() is None or not self._inbox.is_lost(source)]
        if not good and len(over) == len(heads):
            good = list(over)
        for source in good:
            if self._inbox.take(source, self._tag, over[source]):
                self.source, self._taken = source, over[source]
                return True
        self._late = time.monotonic() >= self._deadline
        return False
