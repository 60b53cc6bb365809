"""What results are kept by, made ahead: a token and a small object of Ray's, the marker, for each call.

To make one of each takes answers of other processes, which have to wake up for that. A thread of this process makes
them in batches, and calls wait for none of it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import queue
from typing import Any, NamedTuple

import ray

from muster import _runtime, open_token
from muster._tokens import Token
from muster.errors import Error
from muster.ray import _keepers

_FIRST = 4
_BATCH = 64
_numbers = itertools.count()


class Pair(NamedTuple):
    token: Token
    marker: ray.ObjectRef
    connection: Any  #: to the daemon; the token ends with it


class _Ahead:
    def __init__(self) -> None:
        self._ready: queue.SimpleQueue[Pair] = queue.SimpleQueue()
        self._batch = _FIRST
        self._refills = False
        #: One thread makes them all: two threads of an async actor may give objects that they make the same id.
        self._maker = concurrent.futures.ThreadPoolExecutor(1, "muster-ray-ahead")

    def take(self) -> Pair:
        connection = _runtime.connection()
        while True:
            try:
                pair = self._ready.get_nowait()
            except queue.Empty:
                return self._maker.submit(self._make).result()
            if self._ready.qsize() <= self._batch // 2 and not self._refills:
                self._refills = True
                self._maker.submit(self._refill)
            if pair.connection is connection:
                return pair

    def _refill(self) -> None:
        with contextlib.suppress(Exception):  # Ray or the daemon has ended: who finds none makes them, and is told
            self._ready.put(self._make())
        self._refills = False

    def _make(self) -> Pair:
        """Returns one pair, and puts others aside."""
        connection = _runtime.connection()
        tokens = [_open()]
        with contextlib.suppress(Error):  # this process may open no more: those that are there will do
            while len(tokens) < self._batch:
                tokens.append(_open())
        self._batch = _BATCH
        markers = _keepers.small_objects(len(tokens))
        first, *others = (Pair(token, marker, connection) for token, marker in zip(tokens, markers))
        for other in others:
            self._ready.put(other)
        return first


def _open() -> Token:
    return open_token(f"ray {ray.get_runtime_context().get_worker_id()} {next(_numbers)}")


_ahead = _Ahead()


def take() -> Pair:
    """Returns a token and a marker that nobody has had.

    Raises:
        DaemonUnavailable: the daemon has ended.
        QuotaExceeded: this process has too many tokens.
    """
    return _ahead.take()


def forget() -> None:
    """Must be called when this process joins another cluster, and in a forked child."""
    global _ahead
    _ahead = _Ahead()


os.register_at_fork(after_in_child=forget)
