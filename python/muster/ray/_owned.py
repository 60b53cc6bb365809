"""The calls that this process has submitted. An object lives while Ray refers to the result that names it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import ray

from muster import _runtime
from muster.errors import Error
from muster.ray import _ahead, _hooks, _needs

_log = logging.getLogger("muster")


class Again(NamedTuple):
    """A call as it was submitted: with arguments that nobody changes. Results of calls are ``Made`` among them."""

    submit: Callable[..., Any]
    args: Any
    kwargs: Any
    depth: int  #: how many calls one after the other it takes at most to make everything again


class Made(NamedTuple):
    """A result of a call of this process. Does not keep the result itself, only how to make it again."""

    owned: Owned
    result: int  #: which of the results of the call
    id: bytes

    def ref(self) -> ray.ObjectRef | None:
        """The result, if anything still refers to it."""
        return _hooks.ref_to(self.id) if self.id in _calls else None


class Owned:
    """A submitted call: what its results are kept by, and how to make them again.

    Each result names a small object of Ray's, the marker. Ray keeps that as long as anything holds the result, also a
    task that waits to run and has a copy of the result in it. The token ends with the marker. Until then this process
    needs its daemon: the token would end with it.

    Attributes:
        marker: the small object, until the call is submitted.
        lock: for what follows; nobody waits while holding it.
        again: how to submit the call once more; None if that can't be done.
        retries: how often that may be done; negative: as often as needed.
        replaced: how the results were made that stand for these; None if they were not made again.
        making: has those results when they are submitted, or None if that failed; None if nobody makes them.
        places: of results that are known to be there, by their index: on which node, and how many bytes.
    """

    __slots__ = (
        "_held",
        "_kept",
        "_needs",
        "_token",
        "again",
        "lock",
        "making",
        "marker",
        "places",
        "replaced",
        "retries",
    )

    def __init__(self) -> None:
        ahead = _ahead.take()
        self._token = ahead.token
        self.marker: ray.ObjectRef | None = ahead.marker
        self.lock = threading.Lock()
        self.again: Again | None = None
        self.retries = 0
        self.replaced: list[Made] | None = None
        self.making: concurrent.futures.Future[list[ray.ObjectRef] | None] | None = None
        self.places: dict[int, tuple[str, int]] = {}
        socket = _runtime.socket_path()
        #: Nothing if a keeper looks right now whether the daemon is needed: who makes a call keeps it meanwhile.
        self._needs = [socket] if _needs.begin(socket) else []
        self._held: set[int] = set()  # the indices of results that something refers to
        self._kept: dict[int, ray.ObjectRef] = {}  # what stands for those, if they had to be made again

    @property
    def name(self) -> str:
        return self._token.name

    def watch(self, refs: list[ray.ObjectRef] | None = None) -> None:
        """Ends with the marker. ``refs``: the results of the submitted task, which may have to be made again."""
        for index, ref in enumerate(refs or []):
            id = ref.binary()
            self._held.add(index)
            _calls[id] = (self, index)
            _when_over(ref, functools.partial(self._let_go, index, id))
        marker, self.marker = self.marker, None
        _when_over(marker, self.end)

    def replace(self, refs: list[ray.ObjectRef]) -> None:
        """Lets these results stand for those that were lost, and keeps them as long as something refers to those."""
        made = [Made(*_calls[ref.binary()], ref.binary()) for ref in refs]
        with self.lock:
            self.replaced = made
            self._kept = {index: refs[index] for index in self._held}

    def _let_go(self, index: int, id: bytes) -> None:
        """Nothing refers to a result any more. Who makes a call again that took it as an input keeps this object."""
        _calls.pop(id, None)
        with self.lock:
            self._held.discard(index)
            self._kept.pop(index, None)

    def end(self) -> None:
        """Nothing needs what the results name. That may be so before they are let go, if they are errors."""
        with contextlib.suppress(Error):  # the daemon has ended, and the token with it
            self._token.end()
        while self._needs:
            _needs.end(self._needs.pop())


#: The calls of this process whose results somebody refers to: by the result's id, with its index among the results.
_calls: dict[bytes, tuple[Owned, int]] = {}


def _when_over(ref: ray.ObjectRef | None, call: Callable[[], Any]) -> None:
    """Makes a call on a thread of ours when nothing refers to an object of this process any more."""
    if not _hooks.when_out_of_scope(ref, lambda _: _ends.put(call)):
        _ends.put(call)


def forget() -> None:
    """Must be called when this process joins another cluster."""
    _ahead.forget()
    _calls.clear()


def call_of(ref: ray.ObjectRef) -> tuple[Owned, int] | None:
    """Returns the call that a result is of, and which result it is; None if this process did not submit it."""
    return _calls.get(ref.binary())


class Caller:
    """Makes calls one after the other, on a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="muster-ray", daemon=True)
                self._thread.start()

    def put(self, call: Callable[[], Any]) -> None:
        """Called on a thread of Ray's that must not wait."""
        self._queue.put(call)

    def _run(self) -> None:
        while True:
            call = self._queue.get()
            try:
                call()
            except Exception:  # for instance as Ray has been shut down; what comes later must be called, too
                _log.warning("a call that nobody waits for has failed", exc_info=True)
            del call

    def reset(self) -> None:
        """In a forked child, nothing is owned."""
        self.__init__()  # type: ignore[misc]


_ends = Caller()
os.register_at_fork(after_in_child=_ends.reset)


def open_owned() -> Owned:
    """Opens what will keep the results of a call that is to be submitted."""
    _ends.start()
    return Owned()


def as_list(refs: Any) -> list[ray.ObjectRef]:
    """What a submission returned, as a list."""
    if isinstance(refs, ray.ObjectRef):
        return [refs]
    return list(refs or [])
