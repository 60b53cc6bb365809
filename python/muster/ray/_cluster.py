"""This process in a Ray cluster: it joins, uses its node's daemon, and leaves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from muster import _muster, _runtime
from muster._checks import size
from muster.errors import DaemonRestarted, DaemonUnavailable, Invalid
from muster.ray import _hooks, _keepers, _needs, _owned, _refs, _timeline
from muster.ray._sweep import ENDING, JOBS, keep_of

_NEED_S = 60.0
_ASK_AGAIN_S = 0.005
_LOOK_AGAIN_S = 0.05
_lock = threading.Lock()
_attached_to = ""  # a socket
_session: bytes | None = None  # with Ray, on the node of that daemon
_T = TypeVar("_T")
_at_shutdown: list[Callable[[], None]] = []


def init(
    address: str | None = None,
    *,
    memory: str | int | None = None,
    idle_timeout: float | None = None,
    **options: Any,
) -> Any:
    """Starts Ray or joins a cluster, as ``ray.init`` does, and lets every node have a daemon of Muster.

    If this process has called ``ray.init`` before, only the daemons are started. Calling it again does nothing.

    Each daemon's memory is reserved with Ray, so that Ray gives it to nothing else. If this call starts the cluster,
    one CPU in eight of each node is reserved, too, for the daemon's work; none of a node with fewer than eight.

    Args:
        address: as of ``ray.init``.
        memory: budget of each node's daemon, for instance ``"4GiB"``; by default 30 % of the memory that Ray has on the
            node, or what Ray has left of it if that is less.
        idle_timeout: seconds after which a daemon that nobody needs ends, and gives its memory back, so that the node
            can be taken away; by default 60. It is started again when it is needed. The head of the cluster keeps its
            daemon.
        options: other arguments of ``ray.init``.

    Returns:
        What ``ray.init`` returns; None if Ray runs in this process already.

    Raises:
        Invalid: a daemon with another budget runs on a node.
        OutOfMemory: Ray has not so much memory left on a node.
        DaemonUnavailable: a node's daemon could not be started; the message says why.
    """
    if (address or os.environ.get("RAY_ADDRESS") or "").startswith("ray://"):
        raise Invalid(
            f"address={address or os.environ['RAY_ADDRESS']!r}: Muster does not work through Ray Client",
            "run the script on a node of the cluster, with address='auto', or as a job: ray job submit",
        )
    _muster.parse_bytes(size("memory", memory) or "1")
    if idle_timeout is not None and not (isinstance(idle_timeout, (int, float)) and idle_timeout > 0):
        raise Invalid(f"idle_timeout={idle_timeout!r} is not valid", "give seconds, more than 0")
    context, lanes = None, None
    if not ray.is_initialized():
        context = _init_ray(address, options)
        lanes = _hooks.started_cluster() or None  # of other people's clusters, no CPU is taken
    elif address is not None or options:
        raise Invalid(
            "this process uses Ray already", "call muster.ray.init() instead of ray.init(), or without its arguments"
        )
    try:
        _register_job()
        _keepers.settle(idle_timeout=idle_timeout, lanes=lanes)
        _keepers.start_on_all(memory)
        _keepers.settle(memory=memory)
        ready()
    except Exception:
        if context is not None:
            shutdown()  # as if nobody had called this
        raise
    return context


def _init_ray(address: str | None, options: dict[str, Any]) -> Any:
    # Ray takes the one of a job_config only if it is given no other.
    given = dict(options.pop("runtime_env", None) or getattr(options.get("job_config"), "runtime_env", None) or {})
    with _hooks.submitted_without_setup_hook(may_take=_hooks.SETUP_HOOK not in given) as of_job:
        if of_job is not None:
            given[_hooks.SETUP_HOOK] = of_job
        return ray.init(address, runtime_env=hook(given), **options)


def hook(runtime_env: Any) -> Any:
    """Lets every worker of a job know Muster, without a change of the job's script.

    Say ``RAY_RUNTIME_ENV_HOOK=muster.ray.hook`` in the environment of a script that calls ``ray.init()``: Ray calls
    this with the job's runtime environment. Daemons are started when they are needed.
    """
    _hooks.workers_know_transports(True)
    env = dict(runtime_env or {})
    env[_hooks.SETUP_HOOK] = _chained(_hooks.take_setup_hook(env))
    return env


def shutdown() -> None:
    """Ends this process's use of Ray, and the daemons of all nodes if no other job of the cluster uses Muster.

    Nothing happens if Ray does not run here.
    """
    if not ray.is_initialized():
        return
    _timeline.end_all()
    ending = ENDING + _job().encode()
    _hooks.kv_put(ending, b"")  # before this job looks for others: who is not found waits until this one is done
    try:
        _hooks.kv_delete(JOBS + _job().encode())
        if not keep_of(JOBS, _hooks.live_jobs):
            _keepers.stop_all()
            _keepers.forget_settings()
    finally:
        _hooks.kv_delete(ending)
    ray.shutdown()
    for function in _at_shutdown:
        function()


def at_shutdown(function: Callable[[], None]) -> Callable[[], None]:
    """Lets a function be called when Ray has been shut down."""
    _at_shutdown.append(function)
    return function


def _job() -> str:
    return str(ray.get_runtime_context().get_job_id())


def _register_job(seconds: float = _NEED_S) -> None:
    """The daemons stay while a job that is written down lives. Waits for jobs that are just ending them."""
    _hooks.kv_put(JOBS + _job().encode(), b"")
    until = time.monotonic() + seconds
    while ending := keep_of(ENDING, _hooks.live_jobs):
        if time.monotonic() >= until:
            raise DaemonUnavailable(
                f"the daemons are being ended by the job {', '.join(sorted(ending))}, and not within {seconds:.3g} s",
                "call again; if that does not help, look at: ray list jobs",
            )
        time.sleep(_LOOK_AGAIN_S)


def with_daemon(call: Callable[[], _T], timeout: float | None = None) -> _T:
    """Makes a call that needs this node's daemon. If that has ended, it is started first."""
    socket = need(timeout)
    try:
        try:
            return call()
        except (DaemonRestarted, DaemonUnavailable):
            ready(timeout)
            return call()
    finally:
        _needs.end(socket)


def need(timeout: float | None = None) -> str:
    """Like ``ready``, and the daemon does not end as idle until ``_needs.end`` of the socket that is returned."""
    seconds = _NEED_S if timeout is None else min(timeout, _NEED_S)
    until = time.monotonic() + seconds
    while True:
        ready(max(until - time.monotonic(), 0))
        socket = need_now()
        if socket is not None:
            return socket
        if time.monotonic() >= until:
            raise DaemonUnavailable(
                f"this node's daemon was being ended as nobody needed it, and has not ended within {seconds:.3g} s",
                "call again; if that does not help, look at: ray list actors",
            )
        time.sleep(_ASK_AGAIN_S)


def need_now() -> str | None:
    """The same without a wait; None if the daemon has ended or is being ended."""
    socket = _attached_to
    if not _is_ready() or not _needs.begin(socket):
        return None
    if not _is_ready():
        _needs.end(socket)
        return None
    return socket


def _is_ready() -> bool:
    return _session is not None and _session == _hooks.session() and _runtime.has_daemon()


def ready(timeout: float | None = None) -> None:
    """Lets this process use its node's daemon. If there is none, it is started first.

    Args:
        timeout: seconds that this may take; a minute by default, and at most.

    Raises:
        DaemonUnavailable: it could not be started, or not in time.
    """
    if _is_ready():
        return
    node = ray.get_runtime_context().get_node_id()
    began = time.monotonic()
    _register_job(_NEED_S if timeout is None else timeout)
    _attach(node, _keepers.start(node, timeout=timeout, waited=time.monotonic() - began))


def _attach(node: str, path: str) -> None:
    """Lets this process use a daemon, and Ray carry Muster's refs."""
    global _attached_to, _session
    with _lock:
        if _attached_to != path:
            if _attached_to:
                _runtime.forget()  # of a cluster that this process was in before
                _owned.forget()
                _needs.forget()
            _runtime.use(path)
            os.environ["MUSTER_SOCKET"] = path  # for the processes that this one starts
            _attached_to = path
        _refs.register(node)
        _session = _hooks.session()


def _attach_when_needed() -> None:
    """In a process of a Ray cluster, its node's daemon is the one to use, also if no marked function was called yet."""
    if ray.is_initialized():
        ready()


def _start_again(socket: str) -> bool:
    """Starts this node's daemon if that is the one that has ended. Returns False if it is not."""
    if not ray.is_initialized() or socket != _attached_to:
        return False
    ready()
    return True


_runtime.look_up(_attach_when_needed)
_runtime.start_again(_start_again)
os.register_at_fork(after_in_child=lambda: _runtime.start_again(None))  # Ray does not work in a forked child


def _chained(hook: Any) -> Callable[[], None]:
    """Returns what each worker calls when it starts: the user's own hook first."""

    def set_up() -> None:
        import muster.ray

        muster.ray._cluster.set_up_worker(hook)

    return set_up


def set_up_worker(hook: Any) -> None:
    """Called in each new worker."""
    _hooks.workers_know_transports(True)
    _hooks.call_setup_hook(hook)
    node = ray.get_runtime_context().get_node_id()
    path = _keepers.socket_on(node)
    if path:
        _attach(node, path)
    else:
        _refs.register("")
