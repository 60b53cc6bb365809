"""The daemons of a Ray cluster, one for each node, and the processes that use them."""

from __future__ import annotations

import os
import pathlib
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import muster
from muster import _runtime
from muster._checks import size
from muster.errors import DaemonRestarted, DaemonUnavailable, Denied, Error, Invalid
from muster.ray import _hooks, _owned, _refs

_NAMESPACE = "muster"
_START_S = 60
_HOOK = "worker_process_setup_hook"
_lock = threading.Lock()
_attached_to = ""
_T = TypeVar("_T")


def init(address: str | None = None, *, memory: str | int | None = None, **options: Any) -> Any:
    """Starts Ray or joins a cluster, as ``ray.init`` does, and lets every node have a daemon of Muster.

    If this process has called ``ray.init`` before, only the daemons are started. Calling it again does nothing.

    Args:
        address: as of ``ray.init``.
        memory: budget of each node's daemon, for instance ``"4GiB"``; by default 30 % of the machine's memory.
        options: other arguments of ``ray.init``.

    Returns:
        What ``ray.init`` returns; None if Ray runs in this process already.

    Raises:
        Invalid: Muster does not know this version of Ray, or a daemon with another budget runs on a node.
        DaemonUnavailable: a node's daemon could not be started; the message says why.
    """
    _hooks.check()
    size("memory", memory)
    context = None
    if not ray.is_initialized():
        context = _init_ray(address, options)
    elif address is not None or options:
        raise Invalid(
            "this process uses Ray already", "call muster.ray.init() instead of ray.init(), or without its arguments"
        )
    keepers = [_keeper_on(node["NodeID"]) for node in ray.nodes() if node["Alive"]]
    try:
        ray.get([keeper.start.remote(memory) for keeper in keepers], timeout=_START_S)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Error) else error from None
    attach()
    return context


def _init_ray(address: str | None, options: dict[str, Any]) -> Any:
    given = options.pop("runtime_env", None)
    try:
        return ray.init(address, runtime_env=hook(given), **options)
    except RuntimeError as error:
        if "Conflicting worker_process_setup_hook" not in str(error):
            raise
    # A job that was submitted with a hook can't have another one. Its workers import muster.ray when they need it.
    ray.shutdown()
    return ray.init(address, runtime_env=given, **options)


def hook(runtime_env: Any) -> Any:
    """Lets every worker of a job know Muster, without a change of the job's script.

    Say ``RAY_RUNTIME_ENV_HOOK=muster.ray.hook`` in the environment of a script that calls ``ray.init()``: Ray calls
    this with the job's runtime environment. Daemons are started when they are needed.
    """
    env = dict(runtime_env or {})
    env[_HOOK] = _chained(env.get(_HOOK))
    return env


def shutdown() -> None:
    """Ends the daemons of all nodes, and this process's use of Ray. Nothing happens if Ray does not run here."""
    if not ray.is_initialized():
        return
    keepers = [_keeper_on(node["NodeID"]) for node in ray.nodes() if node["Alive"]]
    ray.get([keeper.stop.remote() for keeper in keepers], timeout=_START_S)
    for keeper in keepers:
        ray.kill(keeper)
    ray.shutdown()


def attach() -> None:
    """Lets this process use its node's daemon, and Ray carry Muster's refs."""
    global _attached_to
    path = socket_here()
    if _attached_to == path:
        return
    with _lock:
        if _attached_to:
            _runtime.forget()  # of a cluster that this process was in before
            _owned.forget()
        _runtime.use(path)
        os.environ["MUSTER_SOCKET"] = path  # for the processes that this one starts
        _refs.register()
        _attached_to = path


def with_daemon(call: Callable[[], _T]) -> _T:
    """Makes a call that needs this node's daemon. If that has ended, it is started first."""
    ready()
    try:
        return call()
    except (DaemonRestarted, DaemonUnavailable):
        ready()
        return call()


def ready() -> None:
    """Lets this process use its node's daemon. If that has ended, it is started first."""
    attach()
    if not _runtime.has_daemon():
        ray.get(_keeper_on(ray.get_runtime_context().get_node_id()).start.remote(None), timeout=_START_S)


def socket_here() -> str:
    """Where the daemon of this process's node listens. Clusters on one machine have daemons of their own."""
    return str(_folder() / f"{ray.get_runtime_context().get_node_id()[:16]}.sock")


def _folder() -> pathlib.Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return pathlib.Path(base, "muster-ray") if base else pathlib.Path(f"/tmp/muster-{os.getuid()}", "ray")


@ray.remote(num_cpus=0)
class _Keeper:
    """Starts a node's daemon, and is a client of it, so that it stays."""

    def __init__(self) -> None:
        self._memory: str | int | None = None

    def start(self, memory: str | int | None) -> None:
        """Starts the daemon if there is none, with the memory that was given last."""
        self._memory = self._memory if memory is None else memory
        path = socket_here()
        _make_folder(pathlib.Path(path).parent)
        muster.init(self._memory, socket=path)

    def stop(self) -> None:
        folder = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
        command = os.environ.get("MUSTER_CLI") or shutil.which("muster", path=folder)
        if command is not None:
            subprocess.run(
                [command, "stop", "--socket", socket_here()], capture_output=True, check=False, timeout=_START_S
            )


def _make_folder(folder: pathlib.Path) -> None:
    """Makes a folder that only this user can change.

    Raises:
        Denied: somebody else has it, or may write there.
    """
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
    for each in (folder.parent, folder):
        found = each.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022 or not stat.S_ISDIR(found.st_mode):
            raise Denied(f"{each} is not a folder that only this user may change", "remove it, or set XDG_RUNTIME_DIR")


def _keeper_on(node: str) -> Any:
    return _Keeper.options(  # type: ignore[attr-defined]
        name=f"muster on {node}",
        namespace=_NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    ).remote()


def _chained(hook: Any) -> Callable[[], None]:
    """Returns what each worker calls when it starts: the user's own hook first."""

    def set_up() -> None:
        import muster.ray

        muster.ray._cluster.set_up_worker(hook)

    return set_up


def set_up_worker(hook: Any) -> None:
    """Called in each new worker."""
    if isinstance(hook, str):
        module, _, name = hook.rpartition(".")
        hook = getattr(__import__(module, fromlist=[name]), name)
    if hook is not None:
        hook()
    attach()
