"""How the ranks of a process group find the same group of Muster: rank 0 names it in torch's store."""

from __future__ import annotations

import contextlib
import datetime
import json
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
    # A store may be used again, after destroy_process_group(). Each rank counts how often it has been here.
    visit = store.add(f"muster/rank {rank}", 1)
    meeting = _Meeting(store, f"muster/group {visit}", rank, world_size, timeout_s)
    told = None if rank == 0 else meeting.wait_for_name()
    with meeting.told_to_all():
        if told is None:
            told = meeting.make_name()
        else:
            meeting.check(told)
        group = muster.group(told["name"], rank=rank, world_size=world_size, timeout=min(timeout_s, DAY_S))
    try:
        meeting.wait_for_all()
    except BaseException:
        group.leave()
        raise
    return group


class _Meeting:
    """The keys in torch's store by which the ranks of a group meet."""

    def __init__(self, store: Any, key: str, rank: int, world_size: int, timeout_s: float) -> None:
        self._store = store
        self._key = key
        self._rank = rank
        self._world_size = world_size
        self._timeout_s = timeout_s
        self._until = time.monotonic() + timeout_s

    def make_name(self) -> dict[str, str]:
        """Makes a name for the group that no other group ever has."""
        told = {"name": f"torch {secrets.token_hex(8)}", "socket": _runtime.connection().socket, "machine": _machine()}
        self._store.set(self._key, json.dumps(told))
        return told

    def wait_for_name(self) -> dict[str, str]:
        """Returns what rank 0 says."""
        return self._told(self._key, [0])

    def check(self, told: dict[str, str]) -> None:
        """Raises if this rank can't follow rank 0."""
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

    @contextlib.contextmanager
    def told_to_all(self) -> Iterator[None]:
        """Lets the other ranks know that this one has its seat, or why it has none."""
        try:
            yield
        except BaseException as error:
            code, message, hint = "Error", repr(error), f"see what rank {self._rank} has printed"
            if isinstance(error, Error):
                code, message, hint = error.code, error.message, error.hint
            text = json.dumps({"code": code, "message": message, "hint": hint, "rank": self._rank})
            with contextlib.suppress(RuntimeError):  # the store may be what has failed
                for key in (self._key, self._key_of_all) if self._rank == 0 else (self._key_of_all,):
                    self._store.set(key, text)
            raise
        self._store.set(self._key_of(self._rank), "")
        if self._store.add(f"{self._key}/seats", 1) == self._world_size:
            self._store.set(self._key_of_all, "{}")

    def wait_for_all(self) -> None:
        self._told(self._key_of_all, None)

    @property
    def _key_of_all(self) -> str:
        return f"{self._key}/all"

    def _key_of(self, rank: int) -> str:
        return f"{self._key}/rank {rank}"

    def _told(self, key: str, ranks: list[int] | None) -> dict[str, str]:
        """Waits for what a rank writes: these, or those that have not taken their seats."""
        try:
            left = max(self._until - time.monotonic(), 0.001)
            self._store.wait([key], datetime.timedelta(seconds=left))
            told: dict[str, Any] = json.loads(self._store.get(key))
        except RuntimeError as error:  # what torch's stores raise
            raise self._not_told(error, ranks) from None
        if "code" in told:
            message = f"rank {told['rank']} can't take its seat: {told['message']}"
            raise by_code(told["code"])(message, told["hint"], [told["rank"]])
        return told

    def _not_told(self, error: RuntimeError, ranks: list[int] | None) -> Error:
        failed = PeerLost(f"torch's store has failed: {error}", "see what rank 0 has printed", [0])
        if time.monotonic() < self._until:
            return failed
        try:
            missing = ranks or [r for r in range(self._world_size) if not self._store.check([self._key_of(r)])]
        except RuntimeError:
            return failed
        names = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        return Timeout(
            f"the group was not complete within {self._timeout_s:g} s: no sign of {names}",
            "start all ranks",
            missing,
        )


def _machine() -> str:
    """A name of this machine until it boots again."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
