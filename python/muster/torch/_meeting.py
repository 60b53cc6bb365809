"""How the ranks of a process group find the same group of Muster: rank 0 names it in torch's store."""

from __future__ import annotations

import datetime
import json
import secrets
import time
from pathlib import Path
from typing import Any

import muster
from muster import _runtime
from muster._group import Group
from muster.errors import DaemonUnavailable, Error, Invalid, PeerLost, Timeout, by_code

#: The longest deadline that a group takes.
DAY_S = 86400.0


def meet(store: Any, rank: int, world_size: int, timeout_s: float) -> Group:
    """Takes this rank's seat. Waits for rank 0 only, which makes a name that no other group ever has.

    Raises:
        Timeout: rank 0 did not come.
        PeerLost: the store has failed.
        Invalid: the ranks are on different machines, or use different daemons.
        DaemonUnavailable: there is no daemon, here or for rank 0.
    """
    # A store may be used again, after destroy_process_group(). Each rank counts how often it has been here.
    visit = store.add(f"muster/rank {rank}", 1)
    key = f"muster/group {visit}"
    told = _lead(store, key) if rank == 0 else _follow(store, key, rank, timeout_s)
    return muster.group(told["name"], rank=rank, world_size=world_size, timeout=min(timeout_s, DAY_S))


def _lead(store: Any, key: str) -> dict[str, str]:
    try:
        told = {"name": f"torch {secrets.token_hex(8)}", "socket": _runtime.connection().socket, "machine": _machine()}
    except Error as error:
        store.set(key, json.dumps({"code": error.code, "message": error.message, "hint": error.hint}))
        raise
    except BaseException as error:  # the others must not wait for it
        store.set(key, json.dumps({"code": "Error", "message": repr(error), "hint": "see what rank 0 has printed"}))
        raise
    store.set(key, json.dumps(told))
    return told


def _follow(store: Any, key: str, rank: int, timeout_s: float) -> dict[str, str]:
    until = time.monotonic() + timeout_s
    try:
        store.wait([key], datetime.timedelta(seconds=timeout_s))
        told: dict[str, str] = json.loads(store.get(key))
    except RuntimeError as error:  # what torch's stores raise
        if time.monotonic() < until:
            raise PeerLost(f"torch's store has failed: {error}", "see what rank 0 has printed", [0]) from None
        raise Timeout(
            f"rank 0 did not name the group within {timeout_s:g} s: {error}", "start all ranks", [0]
        ) from None
    if "code" in told:
        raise by_code(told["code"])(f"rank 0 can't take its seat: {told['message']}", told["hint"], [0])
    if told["machine"] != _machine():
        raise Invalid(
            f"rank {rank} is on another machine than rank 0, and Muster works within one", "use gloo over machines"
        )
    try:
        socket = _runtime.connection().socket
    except DaemonUnavailable as error:
        raise DaemonUnavailable(
            f"rank 0 uses the daemon at {told['socket']}, and this rank finds none: {error.message}", error.hint
        ) from None
    if socket != told["socket"]:
        raise Invalid(
            f"rank 0 uses the daemon at {told['socket']}, and rank {rank} the one at {socket}",
            "set MUSTER_SOCKET alike for all ranks",
        )
    return told


def _machine() -> str:
    """A name of this machine until it boots again."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
