"""What a cluster has written down goes when what it is about has gone without a word: a node, a job, a group."""

from __future__ import annotations

import json
from collections.abc import Callable

from muster.ray import _hooks

#: Where the daemon of a node listens, and what is reserved for it.
SOCKETS = b"socket/"
RESERVATIONS = b"reservation/"
#: The jobs that use Muster.
JOBS = b"job/"
#: The jobs that may be ending the daemons.
ENDING = b"ending/"
#: Groups of actors: by job and name.
GROUPS = b"muster/group/"
#: Where the actors of a group are: by the group's id and the rank.
SEATS = b"muster/seat/"


def sweep() -> None:
    """Deletes what nobody can need any more. The keeper of the cluster's head calls this now and then."""
    for prefix in (SOCKETS, RESERVATIONS):
        keep_of(prefix, _hooks.live_nodes)
    for prefix in (JOBS, ENDING):
        keep_of(prefix, _hooks.live_jobs)
    # Groups last: a seat whose group is made after this has listed the seats is not among them.
    seats = _hooks.kv_keys(SEATS)
    groups = _sweep_groups()
    for key in seats:
        if _first_part(key, SEATS) not in groups:
            _hooks.kv_delete(key)


def keep_of(prefix: bytes, living: Callable[[], set[str]]) -> set[str]:
    """Keeps what is about the living, and returns who that is.

    They are asked for last: who came meanwhile is among them.
    """
    keys = _hooks.kv_keys(prefix)
    if not keys:
        return set()
    those = living()
    for key in keys:
        if _first_part(key, prefix) not in those:
            _hooks.kv_delete(key)
    return {_first_part(key, prefix) for key in keys} & those


def _sweep_groups() -> set[str]:
    """Deletes groups of jobs that have ended if none of their actors lives. Returns the ids of the others."""
    kept: set[str] = set()
    keys = _hooks.kv_keys(GROUPS)
    jobs = _hooks.live_jobs() if keys else set()
    for key in keys:
        found = _hooks.kv_get(key)
        if found is None:
            continue
        record = json.loads(found)
        if _first_part(key, GROUPS) in jobs or any(map(_hooks.is_live_actor, record["actors"])):
            kept.add(record["id"])
        else:
            _hooks.kv_delete(key)
    return kept


def _first_part(key: bytes, prefix: bytes) -> str:
    return key[len(prefix) :].decode().partition("/")[0]
