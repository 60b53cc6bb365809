"""``recv`` from any source.

Muster's ``recv`` names its source. So one is made for each rank, and the first that gets something is taken. What the
others get then stays here for later calls. So a rank may have sent before this one asks for it.
"""

from __future__ import annotations

import collections
import math
import threading
import time
import weakref
from collections.abc import Callable
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


class _Outcome:
    """What a call ends with. The first wins, and there is no lock that a thread could hold up."""

    def __init__(self) -> None:
        self._kept: dict[None, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    def set(self, value: Any) -> bool:
        """Returns whether this is the outcome."""
        return self._kept.setdefault(None, value) is value

    def get(self) -> Any:
        return self._kept.get(None)


class _Line:
    """What one rank sends with one tag: recvs that are open, and the calls that wait for them, both in order."""

    def __init__(self) -> None:
        self.works: collections.deque[Work] = collections.deque()
        self.calls: collections.deque[Expected] = collections.deque()

    def serve(self, asks: Expected | None = None) -> None:
        """Gives what has come to the calls that wait for it. Calls that are late leave, but for the one that asks."""
        now = time.monotonic()
        self.calls = collections.deque(
            call for call in self.calls if call is asks or now < call.deadline or call.outcome.get() is not None
        )
        while self.calls:
            call, work = self.calls[0], self.works[0]
            if not work.done():
                break
            if not self.calls or self.calls[0] is not call or self.works[0] is not work:
                continue  # done() has called others, who asked again
            is_taken = call.outcome.set(work)
            if self.calls and self.calls[0] is call:  # no function is called from here, and so no handler of signals
                del self.calls[0]
                if is_taken:  # otherwise it has said that it is late, and the next call gets this
                    del self.works[0]

    def head(self) -> Work | None:
        """The first recv that is for no call yet."""
        return self.works[len(self.calls)] if len(self.calls) < len(self.works) else None


class Inbox:
    """What was received, or will be, for no call in particular: by rank and tag."""

    def __init__(self, seat: Group) -> None:
        self._seat = seat
        self._lock = threading.RLock()  # what asks a work may call others, who ask again
        self._lines: dict[tuple[int, int], _Line] = {}
        #: By tag, calls that take what comes first, in order. One that nobody holds any more takes nothing.
        self._arrivals: dict[int, collections.deque[weakref.ref[Arrival]]] = {}

    def from_one(self, source: int, tag: int, timeout_s: float) -> Work | Expected:
        """Receives what the rank sends next."""
        with self._lock:
            line = self._line(source, tag)
            if line is None:
                return self._seat.recv(source, tag, timeout=timeout_s)
            if len(line.works) == len(line.calls):
                line.works.append(self._open(source, tag))
            call = Expected(self, source, tag, timeout_s)
            line.calls.append(call)
            return call

    def drop(self, source: int, tag: int) -> bool:
        """Lets what the rank sends next be lost, if a recv for it is there. Returns whether there is."""
        with self._lock:
            line = self._line(source, tag)
            head = line.head() if line is not None else None
            return head is not None and self.take(source, tag, head)

    def from_any(self, tag: int, timeout_s: float) -> Arrival:
        """Receives what any other rank sends first.

        Raises:
            Invalid: there is no other rank.
            QuotaExceeded: too many tags were used for this.
        """
        if self._seat.world_size == 1:
            raise Invalid("there is no other rank to receive from", "receive in a group of more ranks")
        self.heads(tag)
        arrival = Arrival(self, tag, timeout_s)
        with self._lock:
            self._arrivals.setdefault(tag, collections.deque()).append(weakref.ref(arrival))
            self.serve_any(arrival)
        return arrival

    def serve_any(self, asks: Arrival) -> None:
        """Gives what has come to calls from any source, in their order. Those that are late leave."""

        def serve() -> None:
            line = self._arrivals.get(asks.tag, collections.deque())
            while line:
                ref, call = line[0], line[0]()
                if call is not None and (call is asks or not call.is_late()) and not call.look():
                    break
                if line and line[0] is ref:  # look() may call others, who ask again
                    line.popleft()
            if asks.is_late():
                for ref in [ref for ref in line if ref() is asks]:
                    line.remove(ref)
            if not line and self._arrivals.get(asks.tag) is line:
                del self._arrivals[asks.tag]

        self._if_free(serve)

    def heads(self, tag: int) -> dict[int, Work]:
        """The next recv of each other rank, made if need be."""
        others = [rank for rank in range(self._seat.world_size) if rank != self._seat.rank]
        with self._lock:
            lines = {source: self._line(source, tag) for source in others}
            found = {source: line.head() if line is not None else None for source, line in lines.items()}
            missing = sum(work is None for work in found.values())
            if missing and sum(len(line.works) for line in self._lines.values()) + missing > _OPEN_MAX:
                raise QuotaExceeded(
                    f"recv from any rank was called with {len({tag for _, tag in self._lines})} tags, and each keeps "
                    f"a recv for each of {len(others)} ranks; at most {_OPEN_MAX} are kept",
                    "use the same tags again, or name the rank to receive from",
                )
            return {source: self._add(source, tag) if work is None else work for source, work in found.items()}

    def take(self, source: int, tag: int, work: Work, call: Arrival | None = None) -> bool:
        """Takes a recv out, for a call if that is not over. Returns False if it is, or another call has the recv."""
        with self._lock:
            line = self._line(source, tag)
            if line is None or line.head() is not work:
                return False
            if call is not None and not call.outcome.set((source, work)):
                return False
            del line.works[len(line.calls)]
            return True

    def serve(self, call: Expected) -> None:
        """Gives a call its recv if that is over. One that is late leaves."""

        def serve() -> None:
            line = self._lines.get((call.source, call.tag))
            if line is None or call not in line.calls:
                return
            line.serve(call)
            if call in line.calls and call.is_late():
                line.calls.remove(call)

        self._if_free(serve)

    def _if_free(self, serve: Callable[[], None]) -> None:
        """Calls it with the lock, or not at all if another thread has that: a callback may hold it up for long."""
        held: list[bool] = []
        try:
            held.extend(map(self._lock.acquire, (False,)))  # one step: no handler of signals can raise within it
            if held[0]:
                serve()
        finally:
            if held and held[0]:
                self._lock.release()

    def waits(self, call: Expected) -> Work | None:
        """The recv that a call waits for; None if it waits no longer."""
        with self._lock:
            line = self._lines.get((call.source, call.tag))
            return line.works[line.calls.index(call)] if line is not None and call in line.calls else None

    def is_lost(self, source: int) -> bool:
        return source not in self._seat.live

    def _open(self, source: int, tag: int) -> Work:
        return self._seat.recv(source, tag, timeout=_LONG_S)

    def _add(self, source: int, tag: int) -> Work:
        line = self._lines.setdefault((source, tag), _Line())
        line.works.append(self._open(source, tag))
        return line.works[-1]

    def _line(self, source: int, tag: int) -> _Line | None:
        """What the rank sends, once it is served; None if nothing is open and nobody waits."""
        line = self._lines.get((source, tag))
        if line is None:
            return None
        line.serve()  # may call others, who ask again
        if not line.works and self._lines.get((source, tag)) is line:
            del self._lines[source, tag]
        return self._lines.get((source, tag))


class Expected:
    """A call that waits for a recv of the inbox until its deadline. It is an op for a ``MusterWork``."""

    def __init__(self, inbox: Inbox, source: int, tag: int, timeout_s: float) -> None:
        self.source = source
        self.tag = tag
        self.deadline = time.monotonic() + timeout_s
        self.outcome = _Outcome()  # its recv, or None if it is late
        self._inbox = inbox
        self._limit_s = timeout_s

    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def done(self) -> bool:
        if not self.outcome:
            self._inbox.serve(self)
        if not self.outcome and self.is_late():
            self.outcome.set(None)
        return bool(self.outcome)

    def wait(self, timeout: float | None = None) -> bool:
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self.done():
            work, left = self._inbox.waits(self), min(until, self.deadline) - time.monotonic()
            if left <= 0 and until < self.deadline:
                return False
            if work is not None:
                work.wait(max(0.0, min(left, _SLICE_S)))  # an earlier call may become late, and leave its recv to this
        return True

    def result(self, timeout: float | None = None) -> Any:
        is_over = self.wait(timeout)
        work = self.outcome.get()
        if work is None or not is_over:
            raise Timeout(
                f"recv from rank {self.source} got nothing within {self._limit_s:g} s", "let it send", [self.source]
            )
        return work.result()


class Arrival:
    """The first of several recvs. It has what a ``MusterWork`` needs of an op.

    Attributes:
        source: the rank that it came from, once it is over.
    """

    def __init__(self, inbox: Inbox, tag: int, timeout_s: float) -> None:
        self.tag = tag
        self._inbox = inbox
        self._limit_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.outcome = _Outcome()  # its source and recv, or an Error, or None if it is late

    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    @property
    def source(self) -> int | None:
        outcome = self.outcome.get()
        return outcome[0] if isinstance(outcome, tuple) else None

    def done(self) -> bool:
        if not self.outcome:
            self._inbox.serve_any(self)
        if not self.outcome and self.is_late():
            self.outcome.set(None)
        return bool(self.outcome)

    def wait(self, timeout: float | None = None) -> bool:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self.done():
            left = min(deadline, self.deadline) - time.monotonic()
            if left <= 0 and deadline < self.deadline:
                return False
            try:
                heads = list(self._inbox.heads(self.tag).values())
            except Error:
                continue  # it is over, with this error
            pending = [work for work in heads if not work.done()]
            muster.wait(pending or heads, timeout=max(0.0, min(left, _SLICE_S)))
        return True

    def result(self, timeout: float | None = None) -> Any:
        self.wait(timeout)
        outcome = self.outcome.get()
        if outcome is None:
            raise Timeout(f"recv from any rank got nothing within {self._limit_s:g} s", "let a rank send")
        if isinstance(outcome, Error):
            raise outcome
        return outcome[1].result()

    def look(self) -> bool:
        """Takes the first recv that is over: got something, or was failed by its sender. One from a rank that is lost
        is taken only if all are over. Returns whether there was one. Only for the first call with this tag."""
        try:
            heads = self._inbox.heads(self.tag)
        except Error as error:  # this rank has left the group, for instance
            self.outcome.set(error)
            return True
        for source, work in heads.items():
            if work.done() and isinstance(work.exception(), Timeout):
                self._inbox.take(source, self.tag, work)  # nobody has sent for a day; another takes its place
                heads = {**heads, source: self._inbox.heads(self.tag)[source]}
        over = {source: work for source, work in heads.items() if work.done()}
        good = [source for source, work in over.items() if work.exception() is None or not self._inbox.is_lost(source)]
        if not good and len(over) == len(heads):
            good = list(over)
        for source in good:
            if self.outcome:  # it is late, or done() has called others, who asked for this
                break
            self._inbox.take(source, self.tag, over[source], self)
        return bool(self.outcome)
