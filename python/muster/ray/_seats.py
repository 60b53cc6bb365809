"""Groups of actors: an actor that Ray restarts takes its seat again, and its op goes on where it was."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import ray

import muster
from muster import _muster, _runtime
from muster._checks import size
from muster._group import Group
from muster._work import Work
from muster.errors import DaemonRestarted, Error, Invalid, Timeout
from muster.ray import _cluster, _hooks
from muster.ray._counts import Count
from muster.ray._sweep import GROUPS, SEATS

_ON_LOSS = ("wait", "fail", "shrink")
_ANSWER_S = 5.0  # a history answers at once; this is for a machine that is very busy
#: Before the number of an op, in the key of an op that was given none. Callers can't give such a key.
_NUMBERED = "muster op "
_TASKS_KNOWN = 1000  #: as many as an async actor runs at once, if it says nothing
_lock = threading.Lock()
_seats: dict[str, Seat] = {}


class ActorGroup:
    """A group whose seats are in actors. The process that made it may end.

    Attributes:
        name: by which the actors find it: ``muster.ray.group(name)``.
        actors: by rank.
    """

    def __init__(self, name: str, actors: list[Any]) -> None:
        self.name = name
        self.actors = list(actors)

    def destroy(self) -> None:
        """Lets the name be used again, for another group.

        An actor that has its seat keeps it until it leaves, or asks for a group of this name again.
        """
        found = _hooks.kv_get(_key(self.name))
        if found is not None:
            _hooks.kv_delete(_key(self.name))
            _hooks.kv_delete_all(_seats_of(json.loads(found)["id"]))

    def __repr__(self) -> str:
        return f"<muster.ray.ActorGroup {self.name!r} of {len(self.actors)}>"


def create_group(
    actors: list[Any],
    name: str = "default",
    *,
    on_loss: str = "wait",
    history: str | int | None = "64MiB",
    timeout: float = 30,
) -> ActorGroup:
    """Gives actors seats in a group, from any process: the first actor is rank 0, and so on.

    In an actor, ``muster.ray.group(name)`` is its seat. If the actor dies and Ray restarts it (``max_restarts``), it
    has the same seat, and what the other ranks wait for goes on. If Ray runs the method again that was interrupted
    (``max_task_retries``), its ops that were over are answered from the group's history, so that every op is done once.
    Such a method calls one op after the other, alone in its actor. ``send``, ``recv``, ``split`` and ``subgroup`` are
    refused in groups with a history.

    Args:
        actors: their handles; they need not have started yet.
        name: of the group, within the job.
        on_loss: ``"wait"`` for a restarted actor, until an op's deadline; or ``"fail"``, ``"shrink"``: see
            ``muster.group``.
        history: how many bytes of results the group remembers for actors that are restarted: all results of the longest
            method. None: nothing is remembered, and ops that are called again are new ones.
        timeout: seconds that an op may take; a restart has to fit in.

    Raises:
        Invalid: there is a group of that name, an actor is there twice, or a setting is not valid.
    """
    _check_name(name)
    if isinstance(actors, ray.actor.ActorHandle) or not isinstance(actors, Iterable):
        raise Invalid(f"actors={actors!r} is no list", "give a list of what Actor.remote() returned")
    if on_loss not in _ON_LOSS:
        raise Invalid(f"on_loss={on_loss!r} is not valid", f"use one of: {', '.join(_ON_LOSS)}")
    ids = [_id_of(actor) for actor in actors]
    if not ids or len(set(ids)) != len(ids):
        raise Invalid(f"{len(ids)} actors, {len(set(ids))} of them different", "give each actor once")
    record = {
        "id": uuid.uuid4().hex,
        "actors": ids,
        "on_loss": on_loss,
        "history": size("history", history) if on_loss == "wait" else "",
        "timeout": muster._muster.seconds(timeout),
    }
    if not _hooks.kv_add(_key(name), json.dumps(record).encode()):
        raise Invalid(f"there is a group {name!r} of actors already", "destroy() it first, or use another name")
    return ActorGroup(name, actors)


def group(name: str = "default") -> Seat:
    """Returns the seat of the actor that calls this. It is taken at the first call, which does not wait for others.

    Raises:
        Invalid: there is no such group, or this actor is not in it.
        DaemonRestarted: the daemon that it was in has ended.
    """
    _check_name(name)
    found = _hooks.kv_get(_key(name))
    _leave_destroyed(name, None if found is None else json.loads(found)["id"])
    if found is None:
        raise Invalid(f"there is no group {name!r} of actors", "make it first: muster.ray.create_group(actors, name)")
    record = json.loads(found)
    with _lock:
        if record["id"] not in _seats:
            _seats[record["id"]] = _take(name, record)
        seat = _seats[record["id"]]
    if not seat._connection.still_served():
        raise DaemonRestarted(
            f"the daemon that the group {name!r} of actors was in has ended, and the group with it",
            "make the group anew: group.destroy(), then muster.ray.create_group()",
        )
    return seat


def _leave_destroyed(name: str, id: str | None) -> None:
    """Gives up seats in groups that had this name before. ``id``: of the group that has it now."""
    with _lock:
        left = [seat for seat in _seats.values() if seat._group == name and seat._id != id]
    for seat in left:
        with contextlib.suppress(Error):  # its daemon has ended
            seat.leave()


def _take(name: str, record: dict[str, Any]) -> Seat:
    actor = ray.get_runtime_context().get_actor_id()
    if actor not in record["actors"]:
        raise Invalid(f"this process is no actor of the group {name!r}", "call it in an actor that create_group() got")
    rank = record["actors"].index(actor)
    _cluster.ready()
    taken = muster.group(
        f"ray actors {name} {record['id']}",
        rank=rank,
        world_size=len(record["actors"]),
        timeout=record["timeout"],
        on_loss=record["on_loss"],
        history=record["history"] or None,
    )
    return Seat(taken, record["id"], record["history"], name)


class Seat(Group):
    """A ``muster.Group`` whose ops are counted, so that an op that is called again is known to be the same.

    A task of an actor may be run again by Ray. Its n-th op is then the one that was its n-th op before. Where the count
    stood when the task began is written down with Ray before its first op, and the count itself on this node.
    """

    def __init__(self, taken: Group, id: str, history: str, name: str) -> None:
        super().__init__(taken._native)
        self._connection = _runtime.connection()
        self._id = id
        self._group = name
        self._history = history
        self._task = ""
        self._tasks_before: deque[str] = deque(maxlen=_TASKS_KNOWN)
        self._next: int | None = 0
        self._interrupted: tuple[str, int] | None = None
        self._over = 0  #: ops below this number were over when the actor was restarted
        self._begun_before = 0  #: ops below this number were begun before it was
        if history:
            self._count = Count(_runtime.socket_path(), f"{id}-{self.rank}")
            self._go_on()

    def _go_on(self) -> None:
        """Finds where the actor was before it was restarted."""
        found = _hooks.kv_get(self._key_of_task())
        if found is None:
            return
        task, began = json.loads(found)
        self._interrupted = (task, began)
        self._begun_before = self._count.begun
        # What the others wait for is this rank's next op, if that task is not run again. It calls one after the other,
        # and so do they: all before is over.
        keys = [key for _, _, key in self.owes if key.startswith(_NUMBERED)]
        waiting = [int(key[len(_NUMBERED) :]) for key in keys]
        self._over = min(waiting, default=0)
        # If nobody waits, the count says it. Did the process die on its way into an op, nobody knows if it came there.
        is_sure = self._count.begun == self._count.called > 0
        self._next = min(waiting, default=self._count.begun if is_sure else None)

    def _do(self, call: Callable[..., Work], args: Any, key: str, named: dict[str, Any]) -> Work:
        """Calls an op under its number. A key that the caller gave stays."""
        if key or not self._history:
            _check_key(key)
            return call(*args, key=key, **named)
        number = self._turn()
        if number < self._over:
            named["timeout"] = _ANSWER_S
        try:
            work = call(*args, key=f"{_NUMBERED}{number}", **named)
        finally:
            self._count.end(number)  # a call that raises has taken its place, too
        if number >= self._begun_before:
            return work
        again = _AskedAgain(work, number, self)
        if number < self._over:
            again.check()
        return again

    def _turn(self) -> int:
        """Returns the number of the next op."""
        with _lock:
            task = _task()
            if task != self._task:
                self._begin(task)
            assert self._next is not None
            turn = self._next
            self._next += 1
            self._count.begin(turn)
            return turn

    def _begin(self, task: str) -> None:
        """Another task of the actor calls its first op."""
        if task in self._tasks_before:
            raise Invalid(
                "two tasks of this actor call ops of one group at the same time, so their order is not known",
                "let one method at a time use the group, or make it with history=None",
            )
        if self._interrupted is not None and self._interrupted[0] == task:
            self._next = self._interrupted[1]
        if self._next is None:
            raise Invalid(
                "this actor was restarted on another node, or died on its way into an op, and the task that it was in"
                " is not run again: which op of the group is its next one is not known",
                "make the group anew: group.destroy(), then muster.ray.create_group()",
            )
        # First of all: a task whose beginning is not written down has not begun.
        _hooks.kv_put(self._key_of_task(), json.dumps([task, self._next]).encode())
        self._interrupted = None
        if self._task:
            self._tasks_before.append(self._task)
        self._task = task

    def _key_of_task(self) -> bytes:
        return _seats_of(self._id) + str(self.rank).encode()

    def _forgotten(self, number: int, why: str) -> Invalid:
        room = _muster.bytes_text(_muster.parse_bytes(self._history))
        return Invalid(
            f"op {number} of this group was called by this actor before it was restarted, and the group's history"
            f" (history={room}) does not answer it now: {why}",
            "give muster.ray.create_group() a history= with room for the results of all ops of the longest method",
        )

    def leave(self) -> None:
        """Gives the seat back; ``muster.ray.group()`` does not return it again."""
        with _lock:
            _seats.pop(self._id, None)
        if self._history:
            self._count.forget()
        super().leave()
        if self._history:
            _hooks.kv_delete(self._key_of_task())

    def send(self, *args: Any, **named: Any) -> Work:
        self._refuse("send")
        return super().send(*args, **named)

    def recv(self, *args: Any, **named: Any) -> Work:
        self._refuse("recv")
        return super().recv(*args, **named)

    def split(self, *args: Any, **named: Any) -> Any:
        self._refuse("split")
        return super().split(*args, **named)

    def subgroup(self, *args: Any, **named: Any) -> Any:
        self._refuse("subgroup")
        return super().subgroup(*args, **named)

    def _refuse(self, call: str) -> None:
        if self._history:
            raise Invalid(
                f"{call}() can't be done once only if the actor is restarted",
                "make a group without it: muster.ray.create_group(actors, name, history=None)",
            )

    def allreduce(self, *args: Any, key: str = "", **named: Any) -> Work:
        return self._do(super().allreduce, args, key, named)

    def reduce(self, *args: Any, key: str = "", **named: Any) -> Work:
        return self._do(super().reduce, args, key, named)

    def scan(self, *args: Any, key: str = "", **named: Any) -> Work:
        return self._do(super().scan, args, key, named)

    def broadcast(self, *args: Any, key: str = "", **named: Any) -> Work:
        return self._do(super().broadcast, args, key, named)

    def allgather(self, *args: Any, key: str = "", **named: Any) -> Work:
        return self._do(super().allgather, args, key, named)

    def gather(self, *args: Any, key: str = "", **named: Any) -> Work:
        return self._do(super().gather, args, key, named)

    def scatter(self, *args: Any, key: str = "", **named: Any) -> Work:
        return self._do(super().scatter, args, key, named)

    def reduce_scatter(self, *args: Any, key: str = "", **named: Any) -> Work:
        return self._do(super().reduce_scatter, args, key, named)

    def all_to_all(self, *args: Any, key: str = "", **named: Any) -> Work:
        return self._do(super().all_to_all, args, key, named)

    def barrier(self, *args: Any, key: str = "", **named: Any) -> Work:
        return self._do(super().barrier, args, key, named)


class _AskedAgain(Work):
    """An op that the actor called before it was restarted, too. If nobody answers, the history has forgotten it."""

    __slots__ = ("_number", "_seat")

    def __init__(self, work: Work, number: int, seat: Seat) -> None:
        super().__init__(work._native, work._about, work._out)
        self._number = number
        self._seat = seat

    def check(self) -> None:
        """Raises if the op, which is over, is not answered."""
        error = self.exception()
        if isinstance(error, Invalid):
            raise error

    def result(self, timeout: float | None = None) -> Any:
        try:
            return super().result(timeout)
        except Timeout as error:
            if not self.done():
                raise
            raise self._seat._forgotten(self._number, error.message) from None

    def exception(self, timeout: float | None = None) -> Error | None:
        error = super().exception(timeout)
        if isinstance(error, Timeout):
            return self._seat._forgotten(self._number, error.message)
        return error


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise Invalid(f"name={name!r} is no name of a group", "give a text of at least one letter")


def _check_key(key: Any) -> None:
    if isinstance(key, str) and key.startswith(_NUMBERED):
        raise Invalid(
            f"key={key!r} begins like the keys of ops that are given none",
            f"use one without {_NUMBERED!r} at its start",
        )


def _task() -> str:
    """The task that this thread runs."""
    return ray.get_runtime_context().get_task_id() or ""


def _id_of(actor: Any) -> str:
    if not isinstance(actor, ray.actor.ActorHandle):
        raise Invalid(f"{actor!r} is no handle of an actor", "give what Actor.remote() returned")
    return _hooks.id_of_actor(actor)


def _key(name: str) -> bytes:
    return GROUPS + f"{ray.get_runtime_context().get_job_id()}/{name}".encode()


def _seats_of(id: str) -> bytes:
    return SEATS + f"{id}/".encode()
