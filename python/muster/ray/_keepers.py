"""A node's keeper: an actor that starts the node's daemon, and that has the daemon's memory reserved with Ray.

Ray counts a node with any actor as busy. So on nodes that may be taken away, a keeper ends, with
its daemon and reservation, when nobody has needed them for a while; the next who does makes a new one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import muster
from muster import _runtime
from muster.errors import DaemonRestarted, DaemonUnavailable, Error, Invalid, Timeout
from muster.ray import _hooks, _needs
from muster.ray._counts import folder_of
from muster.ray._folders import make_folder, sockets
from muster.ray._gauges import Gauges
from muster.ray._reservation import Reservation, row_of
from muster.ray._sweep import SOCKETS, sweep

_log = logging.getLogger("muster")
_NAMESPACE = "muster"
_START_S = 60
_PERIOD_S = 0.5
_ASKED_AGAIN_S = 10 * _PERIOD_S
_ANSWER_S = 2.0
_IDLE_S = 60.0
_SETTINGS_KNOWN_S = 5.0
_SWEEP_S = 10.0
_SETTINGS = b"setting/"


def settings() -> dict[str, Any]:
    """What ``muster.ray.init`` was given for all daemons of this cluster: ``memory``, ``idle_timeout``, ``lanes``."""
    found = {name: _hooks.kv_get(_SETTINGS + name.encode()) for name in ("memory", "idle_timeout", "lanes")}
    return {name: json.loads(value) for name, value in found.items() if value is not None}


def settle(**given: Any) -> None:
    """Writes down settings for the daemons that are started later, too; None leaves a setting as it is."""
    for name, value in given.items():
        if value is not None:
            _hooks.kv_put(_SETTINGS + name.encode(), json.dumps(value).encode())


def forget_settings() -> None:
    _hooks.kv_delete_all(_SETTINGS)


def alive_nodes() -> list[str]:
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def start(node: str, memory: str | int | None = None, timeout: float | None = None, waited: float = 0) -> str:
    """Starts a node's daemon if there is none. Returns where it listens.

    ``timeout``: a minute by default, and at most; ``waited``: how many seconds of it have passed.

    Raises:
        Invalid: a daemon with another budget runs there.
        OutOfMemory: Ray has not enough memory left on the node for the daemon's budget.
        DaemonUnavailable: it could not be started, or not in time; the message says why.
    """
    seconds = _START_S if timeout is None else min(timeout, _START_S)
    return _started(node, memory, seconds, time.monotonic() + seconds - waited, None)


def start_on_all(memory: str | int | None) -> None:
    """Starts the daemons of all nodes. See ``start``."""
    nodes = alive_nodes()
    begun = [_keeper_on(node).start.remote(memory) for node in nodes]
    until = time.monotonic() + _START_S
    failed: list[tuple[str, Error]] = []
    for node, answer in zip(nodes, begun):
        try:
            _started(node, memory, _START_S, until, answer)
        except Error as error:
            failed.append((node, error))
    for node, why in failed:
        if not isinstance(why, DaemonUnavailable) or node in alive_nodes():
            raise why


def _started(node: str, memory: str | int | None, seconds: float, until: float, answer: Any) -> str:
    """Waits for the answer of a keeper until a moment, ``seconds`` after it was asked first."""
    while True:
        left = max(until - time.monotonic(), 0)
        try:
            return str(ray.get(answer or _keeper_on(node).start.remote(memory), timeout=left))
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Error) else error from None
        except ray.exceptions.GetTimeoutError:
            raise DaemonUnavailable(
                f"Ray did not start the keeper of node {node[:16]} within {seconds:.3g} s", "look at: ray list actors"
            ) from None
        except ray.exceptions.RayActorError as error:
            # It ended between two calls, as nobody had needed it. The next call makes a new one.
            if time.monotonic() >= until or node not in alive_nodes():
                raise DaemonUnavailable(
                    f"the keeper of node {node[:16]} died: {error}", "look at: ray list actors"
                ) from None
            answer = None
            time.sleep(_PERIOD_S / 10)


def stop_all() -> None:
    """Ends the daemons of all nodes, and gives their memory back to Ray."""
    keepers = {node: keeper for node in alive_nodes() if (keeper := _find(node)) is not None}
    stopped = {node: keeper.stop.remote() for node, keeper in keepers.items()}
    if stopped:
        ray.wait(list(stopped.values()), num_returns=len(stopped), timeout=_START_S)
    for node, keeper in keepers.items():
        try:
            ray.get(stopped[node], timeout=0)
        except (ray.exceptions.RayError, Error) as error:
            _log.warning("the daemon of node %s may still run: %s", node[:16], error)
        ray.kill(keeper)


def keep_here(token: str, submitted_on: str) -> None:
    """Lets a token of a process on another node keep objects on this one: the keeper opens it here, too."""
    node = ray.get_runtime_context().get_node_id()
    late: list[BaseException] = []
    refused: list[BaseException] = []

    def ask() -> None:
        try:
            ray.get(_keeper_on(node).keep.remote(token, submitted_on), timeout=_START_S)
        except ray.exceptions.GetTimeoutError as error:
            late.append(error)
        except ray.exceptions.RayTaskError as error:
            refused.append(error.cause if isinstance(error.cause, Error) else error)
        except ray.exceptions.RayError:
            pass  # the daemon ends with its keeper: the result is lost

    asking = threading.Thread(target=ask)  # in an async actor, this thread must not wait for Ray
    asking.start()
    asking.join()
    if refused:
        raise refused[0]
    if late:
        raise Timeout(f"the keeper of node {node[:16]} did not answer within {_START_S:g} s", "is the node overloaded?")


def small_objects(number: int) -> list[ray.ObjectRef]:
    """Makes objects of this process that are not in Ray's store: results of a call of this node's keeper.

    Nobody waits for the call, or needs what it returns.
    """
    keeper = _keeper_on(ray.get_runtime_context().get_node_id())
    return list(keeper.nothing.options(num_returns=number).remote(number))


def socket_on(node: str) -> str:
    """Where a node's daemon listens; empty if none was started. Its keeper says so: it may have another environment."""
    found = _hooks.kv_get(_socket_of(node))
    return "" if found is None else found.decode()


def _socket_of(node: str) -> bytes:
    return SOCKETS + node.encode()


def _name_on(node: str) -> str:
    return f"muster on {node}"


def _find(node: str) -> Any:
    try:
        return ray.get_actor(_name_on(node), namespace=_NAMESPACE)
    except ValueError:
        return None


def _keeper_on(node: str) -> Any:
    return _Keeper.options(  # type: ignore[attr-defined]
        name=_name_on(node),
        namespace=_NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    ).remote()


@ray.remote(num_cpus=0, max_restarts=-1)
class _Keeper:
    """Starts a node's daemon, and is a client of it, so that it stays."""

    def __init__(self) -> None:
        self._node = ray.get_runtime_context().get_node_id()
        self._path = str(sockets() / f"{self._node[:16]}.sock")
        self._lock = threading.Lock()
        self._reservation = Reservation(self._node, str(ray.get_runtime_context().get_actor_id()))
        self._ended = threading.Event()
        self._watch: threading.Thread | None = None
        #: Tokens of processes on other nodes: the node of each.
        self._kept: dict[str, tuple[Any, str]] = {}
        self._asked = float("-inf")
        self._needed = time.monotonic()
        self._idle_timeout = float("-inf"), _IDLE_S  # when it was looked up, and what it was
        self._gauges: Gauges | None = None
        self._is_head: bool | None = None
        self._swept = float("-inf")
        self._looks = 0
        make_folder(pathlib.Path(self._path).parent)
        _runtime.use(self._path)
        _runtime.start_again(None)  # that is what others ask this process for
        if self._reservation.find():
            self.start(None)

    def start(self, memory: str | int | None) -> str:
        """Starts the daemon if there is none, and reserves its memory. ``memory``: by default as before."""
        with self._lock:
            if self._ended.is_set():
                ray.actor.exit_actor()  # who calls makes another one then
            given = settings().get("memory") if memory is None else memory
            runs = _runtime.has_daemon()
            if not runs:
                self._forget_counts()
            try:
                muster.init(given if runs else given or self._reservation.default(), socket=self._path)
            except Invalid as error:
                hint = "leave memory= out, or end the daemons first: muster.ray.shutdown() in each job that uses them"
                raise Invalid(error.message, hint if runs else error.hint) from None
            _runtime.use(self._path)  # only this method starts a daemon
            try:
                told = muster.status()
                self._reservation.take(told["memory_bytes"], told["lanes"] if settings().get("lanes") else 0)
            except BaseException:
                self._stop_daemon()
                raise
            _hooks.kv_put(_socket_of(self._node), self._path.encode())
            self._be_watched()
            return self._path

    def _be_watched(self) -> None:
        """Lets a thread look whether this keeper is needed, and end it if not."""
        if self._watch is None:
            self._watch = threading.Thread(target=_watch, args=(self,), name="muster-keeper", daemon=True)
            self._watch.start()

    def stop(self) -> None:
        """Ends the daemon and the reservation. Nothing can be done with this keeper after that but to end it, too."""
        self._ended.set()
        with self._lock:
            try:
                self._stop_daemon()
            finally:
                self._reservation.give_back()

    def _stop_daemon(self) -> None:
        self._forget_counts()
        folder = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
        command = os.environ.get("MUSTER_CLI") or shutil.which("muster", path=folder)
        if command is None:
            raise DaemonUnavailable("there is no command muster to stop the daemon with", "set MUSTER_CLI, or PATH")
        run = subprocess.run(
            [command, "stop", "--socket", self._path], capture_output=True, check=False, timeout=_START_S, text=True
        )
        if run.returncode != 0 and _runtime.has_daemon():
            raise DaemonUnavailable(f"the daemon at {self._path} was not stopped: {run.stderr.strip()}", "")
        _hooks.kv_delete(_socket_of(self._node))

    def _forget_counts(self) -> None:
        """The groups have ended with their daemon."""
        shutil.rmtree(folder_of(self._path), ignore_errors=True)

    def nothing(self, number: int) -> tuple[None, ...]:
        """For ``small_objects``."""
        with self._lock:
            self._be_watched()  # the first call may be this one
        return (None,) * number

    def keep(self, token: str, node: str) -> None:
        """Opens a token of a process on another node here, too, until it has ended there."""
        with self._lock:
            self._be_watched()
        if token not in self._kept:
            self._kept[token] = muster.open_token(token), node

    def still_open(self, tokens: list[str]) -> list[str]:
        """Those of these tokens that processes of this node have opened, and not ended."""
        found = [token for token in tokens if _is_open(token)]
        if found:
            self._asked = time.monotonic()
        return found

    def looks(self) -> int:
        """How often it has looked whether somebody needs the daemon."""
        return self._looks

    # ---- on the thread that watches ----

    def end_kept(self) -> None:
        """Ends the tokens that have ended where they were opened first, or whose node is lost."""
        tokens: dict[str, list[str]] = {}
        for token, (_, node) in list(self._kept.items()):
            tokens.setdefault(node, []).append(token)
        still_open = _still_open(tokens)
        for token in [token for of_node in tokens.values() for token in of_node if token not in still_open]:
            kept, _ = self._kept.pop(token)
            with contextlib.suppress(Error):
                kept.end()

    def look(self) -> None:
        """Tells Ray's metrics what the daemon says, and whether somebody needs it."""
        told = _told()
        if told is not None:
            if self._gauges is None:
                self._gauges = Gauges(self._node)
            self._gauges.tell(told)
            self.end_kept()
        if self._is_needed(told):
            self._needed = time.monotonic()
        self._looks += 1

    def sweep(self) -> None:
        """On the head: deletes what is written down of what is gone."""
        if self._is_on_head() and time.monotonic() - self._swept >= _SWEEP_S:
            self._swept = time.monotonic()
            sweep()

    def _is_on_head(self) -> bool:
        if self._is_head is None:
            self._is_head = _hooks.is_head(row_of(self._node))
        return self._is_head

    def may_end(self) -> bool:
        """Whether nobody has needed the daemon for ``idle_timeout``. If so, nobody can begin to need it any more."""
        if self._is_on_head() or time.monotonic() - self._needed < self._seconds_idle():
            return False
        file = _needs.take(self._path)
        if file is None:
            return False
        needed = True
        try:
            needed = self._is_shared() or self._is_needed(_told(), file)
        finally:
            if needed:
                self._needed = time.monotonic()
                os.close(file)
        return not needed

    def _seconds_idle(self) -> float:
        """The ``idle_timeout``, as it was a few seconds ago."""
        if time.monotonic() - self._idle_timeout[0] > _SETTINGS_KNOWN_S:
            self._idle_timeout = time.monotonic(), float(settings().get("idle_timeout", _IDLE_S))
        return self._idle_timeout[1]

    def _is_needed(self, told: dict[str, Any] | None, taken: int | None = None) -> bool:
        """Whether the daemon has anything, or a process needs it. ``taken``: the file by which they say so."""
        if told is not None and (told["objects"] or told["groups"] or told["ops_in_flight"]):
            return True
        if time.monotonic() - self._asked < _ASKED_AGAIN_S:
            return True  # a process of this node needs objects on other nodes
        return taken is None and _needs.is_needed(self._path)

    def _is_shared(self) -> bool:
        """Whether an actor has a share of the memory. It asks the head of the cluster: not for each look."""
        with self._lock:
            return self._reservation.is_shared()

    def ended(self, seconds: float) -> bool:
        return self._ended.wait(seconds)


def _watch(keeper: Any) -> None:
    """Looks at the daemon now and then. Ends the keeper if nobody has needed it for ``idle_timeout``."""
    is_over = False
    while not is_over:
        if keeper.ended(_PERIOD_S):
            return
        # The head of the cluster may not answer: later. What fails must not keep the others from being done.
        with contextlib.suppress(Exception):
            keeper.look()
        with contextlib.suppress(Exception):
            keeper.sweep()
        with contextlib.suppress(Exception):
            is_over = keeper.may_end()
    try:
        keeper.stop()
    finally:
        ray.kill(ray.get_runtime_context().current_actor)


def _told() -> dict[str, Any] | None:
    """What this node's daemon says of itself; None if it has ended."""
    try:
        return muster.status()
    except (DaemonRestarted, DaemonUnavailable):
        return None


def _is_open(token: str) -> bool:
    try:
        muster.open_token(token).end()  # nobody can have an object under it: its name is not open
    except Invalid:
        return True
    return False


def _still_open(tokens: dict[str, list[str]]) -> set[str]:
    """Those of these tokens that are open on their nodes, and all of a node that does not say so in time."""
    if not tokens:
        return set()
    alive = alive_nodes()
    keepers = {node: keeper for node in tokens if node in alive and (keeper := _find(node)) is not None}
    asked = {node: keeper.still_open.remote(tokens[node]) for node, keeper in keepers.items()}
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_S)
    found: set[str] = set()
    for node, answer in asked.items():
        try:
            found.update(ray.get(answer, timeout=0))
        except (ray.exceptions.RayError, Error):
            found.update(tokens[node])  # it is asked again
    return found
