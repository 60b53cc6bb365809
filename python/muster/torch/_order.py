"""In which order works are completed, and what hangs on their futures is called. No threads, and no clock."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable
from typing import Any


@dataclasses.dataclass(eq=False)
class Entry:
    """A work whose future somebody waits for.

    Attributes:
        queue: entries with the same one are completed in the order in which they came, and one at a time. None: at any
            time.
        parent: the entry whose callback asked for the future. The queues of each parent are its own, as it may wait for
            what it has begun.
    """

    work: Any
    op: Any
    queue: Hashable = None
    parent: Entry | None = None
    # Of one that is being completed:
    changed: float = 0.0  # when its callback began, or did something that is seen here
    in_ops: int = 0  # waits of its callback for an op
    children_waiting: int = 0  # entries that its callback has brought
    children_running: list[Entry] = dataclasses.field(default_factory=list)

    @property
    def key(self) -> tuple[int, Hashable]:
        return id(self.parent), self.queue

    @property
    def is_running(self) -> bool:
        """For one that was begun: whether its callback goes on, or that of an entry which its callback has brought."""
        return self.work is not None or bool(self.children_running)

    def is_stalled(self, since: float) -> bool:
        """Whether its callback waits for no op, and for nothing that goes on, and did nothing since then."""
        is_still = self.in_ops == 0 and self.children_waiting == 0 and self.changed <= since
        return is_still and all(child.is_stalled(since) for child in self.children_running)


class Order:
    """Entries that wait to be completed, and those that are being completed."""

    def __init__(self) -> None:
        self._free: list[Entry] = []  # those without a queue
        self._queues: dict[tuple[int, Hashable], collections.deque[Entry]] = {}
        self._running: dict[tuple[int, Hashable], list[Entry]] = {}  # of queues
        self.running = 0  # entries, with a queue or without

    def __bool__(self) -> bool:
        """Whether an entry waits."""
        return bool(self._free or self._queues)

    def add(self, entry: Entry, now: float) -> None:
        if entry.queue is None:
            self._free.append(entry)
        else:
            self._queues.setdefault(entry.key, collections.deque()).append(entry)
        if entry.parent is not None:
            entry.parent.children_waiting += 1
            entry.parent.changed = now

    def candidates(self, stalled_since: float, only_children: bool = False) -> list[Entry]:
        """Returns those that may be completed if their ops are over: the first of each queue whose turn has come.

        A queue waits for the callback that is called for it. One that has stalled may wait for a callback behind it, so
        the queue goes on then. ``only_children`` leaves out those that were begun outside of callbacks.
        """
        found = [entry for entry in self._free if entry.parent is not None or not only_children]
        for key, waiting in self._queues.items():
            first = waiting[0]
            if only_children and first.parent is None:
                continue
            if all(entry.is_stalled(stalled_since) for entry in self._running.get(key, ())):
                found.append(first)
        return found

    def begin(self, entry: Entry, now: float) -> bool:
        """Takes the next entry out, to be completed from now on. Returns whether it overtakes a stalled one."""
        beside: list[Entry] = []
        if entry.queue is None:
            self._free.remove(entry)
        else:
            beside = self._running.setdefault(entry.key, [])
            beside.append(entry)
            waiting = self._queues[entry.key]
            waiting.popleft()
            if not waiting:
                del self._queues[entry.key]
        self.running += 1
        entry.changed = now
        if entry.parent is not None:
            entry.parent.children_waiting -= 1
            entry.parent.children_running.append(entry)
        return len(beside) > 1

    def end(self, entry: Entry, now: float) -> None:
        """The entry is complete, and its callbacks have returned."""
        self.running -= 1
        if entry.queue is not None:
            beside = self._running[entry.key]
            beside.remove(entry)
            if not beside:
                del self._running[entry.key]
        if entry.parent is not None:
            entry.parent.children_running.remove(entry)
            entry.parent.changed = now
        entry.work = entry.op = entry.parent = None  # its own children refer to it

    def is_next(self, entry: Entry) -> bool:
        """Whether an entry waits, and none is before it."""
        if entry.queue is None:
            return entry in self._free
        waiting = self._queues.get(entry.key)
        return waiting is not None and waiting[0] is entry

    def heads_of(self, queue: Hashable) -> tuple[list[Entry], bool]:
        """The first entries of a queue that wait, one for each parent, and whether any is being completed."""
        heads = [waiting[0] for (_, each), waiting in self._queues.items() if each == queue]
        return heads, any(each == queue for _, each in self._running)

    def clear(self, keep: Callable[[Entry], bool]) -> None:
        """Forgets entries that wait."""
        self._free = [entry for entry in self._free if keep(entry)]
        kept = {key: collections.deque(filter(keep, waiting)) for key, waiting in self._queues.items()}
        self._queues = {key: waiting for key, waiting in kept.items() if waiting}
