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
from muster.errors import Error, Invalid, Timeout

#: A recv that nobody asked for must not end before somebody does: its sender would fail.
_LONG_S = 86400.0
_SLICE_S = 0.05


class Inbox:
    """What was received, or will be, for no call in particular: by rank and tag."""

    def __init__(self, seat: Group) -> None:
        self._seat = seat
        self._lock = threading.Lock()
        self._waiting: dict[tuple[int, int], collections.deque[Work]] = {}

    def from_one(self, source: int, tag: int, timeout_s: float) -> Work:
        """Receives what the rank sends next."""
        with self._lock:
            earlier = self._waiting.get((source, tag))
            if earlier:
                return earlier.popleft()
        return self._seat.recv(source, tag, timeout=timeout_s)

    def from_any(self, tag: int, timeout_s: float) -> Arrival:
        """Receives what any other rank sends first.

        Raises:
            Invalid: there is no other rank.
        """
        if self._seat.world_size == 1:
            raise Invalid("there is no other rank to receive from", "receive in a group of more ranks")
        return Arrival(self, tag, timeout_s)

    def heads(self, tag: int) -> dict[int, Work]:
        """The next recv of each other rank, made if need be."""
        with self._lock:
            others = (rank for rank in range(self._seat.world_size) if rank != self._seat.rank)
            return {source: self._head(source, tag) for source in others}

    def take(self, source: int, tag: int, work: Work) -> bool:
        """Takes a recv out. Returns False if another call has it."""
        with self._lock:
            waiting = self._waiting.get((source, tag))
            if not waiting or waiting[0] is not work:
                return False
            waiting.popleft()
            return True

    def _head(self, source: int, tag: int) -> Work:
        waiting = self._waiting.setdefault((source, tag), collections.deque())
        if not waiting:
            waiting.append(self._seat.recv(source, tag, timeout=_LONG_S))
        return waiting[0]


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
        self._lock = threading.Lock()
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
            heads = list(self._inbox.heads(self._tag).values())
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
        """Takes the first recv that got something; one that failed only if all have."""
        if self._taken is not None or self._error is not None:
            return True
        try:
            heads = self._inbox.heads(self._tag)
        except Error as error:  # this rank has left the group, for instance
            self._error = error
            return True
        over = {source: work for source, work in heads.items() if work.done()}
        good = [source for source, work in over.items() if work.exception() is None]
        if not good and len(over) == len(heads):
            good = list(over)
        for source in good:
            if self._inbox.take(source, self._tag, over[source]):
                self.source, self._taken = source, over[source]
                return True
        self._late = time.monotonic() >= self._deadline
        return False
