"""How the ranks of a process group find the same group of Muster: rank 0 names it in torch's store."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import muster
from muster import _runtime
from muster._group import Group
from muster.errors import DaemonUnavailable, Error, Invalid, PeerLost, Timeout, by_code

#: The longest deadline that a group takes.
DAY_S = 86400.0


def meet(store: Any, rank: int, world_size: int, timeout_s: float) -> Group:
    """Takes this rank's seat, and waits until all ranks have taken theirs. A rank that can't tells the others why.

    So a rank that dies later is one that has been there, and the others learn of it at once.

    Raises:
        Timeout: ranks did not come; ``ranks`` names them.
        PeerLost: the store has failed.
        Invalid: the ranks are on different machines, or use different daemons.
        DaemonUnavailable: there is no daemon, here or for another rank.
    """
    meeting = _Meeting(store, rank, world_size, timeout_s)
    try:
        told = meeting.make_name() if rank == 0 else meeting.wait_for_name()
        group = muster.group(told["name"], rank=rank, world_size=world_size, timeout=min(timeout_s, DAY_S))
        try:
            meeting.wait_for_all()
        except BaseException:
            group.leave()
            raise
    except BaseException as error:
        meeting.give_up(error)
        raise
    return group


class _Meeting:
    """The keys in torch's store by which the ranks of a group meet.

    A store may be used again, after ``destroy_process_group()`` or an error: each rank counts its visits, and those of
    equal number meet. A rank that gives up a visit writes so for the others, who fail at that visit, also if they come
    later. So a rank that is late has to come as often as the others did.
    """

    def __init__(self, store: Any, rank: int, world_size: int, timeout_s: float) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._timeout_s = timeout_s
        self._until = time.monotonic() + timeout_s
        self._is_told = False  # by another rank that all have failed
        with _errors_of_store():
            self._key = f"muster/group {store.add(f'muster/rank {rank}', 1)}"

    def give_up(self, error: BaseException) -> None:
        """Tells all why this rank does not take part, unless another one has told it."""
        if self._is_told:
            return
        code, message, hint = "Error", repr(error), f"see what rank {self._rank} has printed"
        if isinstance(error, Error):
            code, message, hint = error.code, error.message, error.hint
        told = json.dumps({"code": code, "message": message, "hint": hint, "rank": self._rank})
        with contextlib.suppress(RuntimeError):  # the store may be what has failed
            self._store.add(f"{self._key}/seats", -self._world_size)  # they are never all taken
            if self._rank == 0:
                self._store.set(self._key, told)
            self._store.set(f"{self._key}/all", told)

    def make_name(self) -> dict[str, str]:
        """Makes a name for the group that no other group ever has."""
        told = {"name": f"torch {secrets.token_hex(8)}", "socket": _runtime.connection().socket, "machine": _machine()}
        with _errors_of_store():
            self._store.set(self._key, json.dumps(told))
        return told

    def wait_for_name(self) -> dict[str, str]:
        """Returns what rank 0 says, if this rank can follow it."""
        told = self._told(self._key, [0])
        if told["machine"] != _machine():
            raise Invalid(
                f"rank {self._rank} is on another machine than rank 0, and Muster works within one",
                "use gloo over machines",
            )
        try:
            socket = _runtime.connection().socket
        except DaemonUnavailable as error:
            raise DaemonUnavailable(
                f"rank 0 uses the daemon at {told['socket']}, and this rank finds none: {error.message}", error.hint
            ) from None
        if socket != told["socket"]:
            raise Invalid(
                f"rank 0 uses the daemon at {told['socket']}, and rank {self._rank} the one at {socket}",
                "set MUSTER_SOCKET alike for all ranks",
            )
        return told

    def wait_for_all(self) -> None:
        """This rank has its seat. Returns when all have."""
        with _errors_of_store():
            self._store.set(self._key_of(self._rank), "")
            if self._store.add(f"{self._key}/seats", 1) == self._world_size:
                self._store.set(f"{self._key}/all", "{}")
        self._told(f"{self._key}/all", None)

    def _key_of(self, rank: int) -> str:
        return f"{self._key}/rank {rank}"

    def _told(self, key: str, ranks: list[int] | None) -> dict[str, str]:
        """Waits for what a rank writes: these, or those that have not taken their seats."""
        left = max(self._until - time.monotonic(), 0)
        try:
            # Stores cut off parts of milliseconds.
            self._store.wait([key], datetime.timedelta(milliseconds=math.floor(1000 * left) + 1))
        except RuntimeError as error:  # what torch's stores raise, also when the time is over
            raise self._too_late(ranks) if time.monotonic() >= self._until else _failed(error) from None
        with _errors_of_store():
            told: dict[str, Any] = json.loads(self._store.get(key))
        if "code" in told:
            self._is_told = True
            message = f"rank {told['rank']} can't take part: {told['message']}"
            raise by_code(told["code"])(message, told["hint"], [told["rank"]])
        return told

    def _too_late(self, ranks: list[int] | None) -> Error:
        with _errors_of_store():
            missing = ranks or [r for r in range(self._world_size) if not self._store.check([self._key_of(r)])]
        late = f"the group was not complete within {self._timeout_s:g} s"
        if not missing:
            return Timeout(f"{late}: all ranks have come, and one has not said so yet", "give it more time", [])
        who = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        return Timeout(f"{late}: no sign of {who}", "start all ranks", missing)


@contextlib.contextmanager
def _errors_of_store() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch's stores raise
        raise _failed(error) from None


def _failed(error: RuntimeError) -> PeerLost:
    return PeerLost(f"torch's store has failed: {error}", "see what rank 0 has printed", [0])


def _machine() -> str:
    """A name of this machine until it boots again."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
