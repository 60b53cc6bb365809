"""The connection of this process to its node's daemon."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import threading
from collections.abc import Callable
from typing import Any

from muster import _muster
from muster._checks import flag, size
from muster.errors import DaemonUnavailable, Invalid

_lock = threading.Lock()
_connection: _muster.Connection | None = None
_pid = 0
_socket = ""
_settings: tuple[str, float | None] = ("", None)  # for a daemon that has to be started
_may_start = True
_look_up: Callable[[], None] | None = None
_start_again: Callable[[str], bool] | None = None


def init(
    memory: str | int | None = None,
    *,
    pickle_lease: float | None = None,
    socket: str | None = None,
    start: bool = True,
) -> None:
    """Connects this process to its node's daemon.

    Starts one if there is none on the socket; other processes find it there, and it ends 10 s after its last client.
    Calling it again does nothing, unless the arguments can't be met.

    Args:
        memory: budget of the daemon, for instance ``"2GiB"`` or a number of bytes; by default 30 % of the machine's or
            cgroup's memory.
        pickle_lease: seconds that the daemon keeps the object of a pickled ref if nobody loads the pickle; by
            default 600.
        socket: where the daemon listens; by default ``$MUSTER_SOCKET``, else a path of this user.
        start: whether to start a daemon if there is none, now or when this process finds its daemon ended.
            After ``start=False`` this process never starts one, even if there was no daemon.

    Raises:
        Invalid: a daemon with another budget or lease runs already; the message names both. Or this process is
        connected to another socket.
        DaemonUnavailable: there is none, or it has ended, and none could or should be started; the message says why.
        QuotaExceeded: this process may open no more descriptors or map no more memory.
    """
    global _connection, _pid, _socket, _settings, _may_start
    budget = size("memory", memory)
    start = flag("start", start)
    if socket is None:
        _find_socket()
    with _lock:
        if not start:
            _may_start = False
        path = socket if socket is not None else _socket if _pid == os.getpid() else ""
        elsewhere = is_attached() and socket is not None and _connection is not None and socket != _connection.socket
        try:
            made = _connect(path, budget, pickle_lease, start and not elsewhere)
        except DaemonUnavailable:
            if elsewhere:
                raise _attached_elsewhere(path) from None
            raise
        if is_attached() and _connection is not None and made.socket != _connection.socket:
            raise _attached_elsewhere(made.socket)
        _connection, _pid, _socket = made, os.getpid(), made.socket
        _settings = (budget or _settings[0], _settings[1] if pickle_lease is None else pickle_lease)
        _may_start = start


def use(socket: str) -> None:
    """Says which daemon this process will connect to when it first needs one. It never starts one.

    Raises:
        Invalid: this process is connected to another socket.
    """
    global _socket, _may_start
    with _lock:
        if is_attached() and _connection is not None and socket != _connection.socket:
            raise _attached_elsewhere(socket)
        _socket, _may_start = socket, False


def look_up(function: Callable[[], None]) -> None:
    """Lets a function say which daemon to use, by ``use()``, when this process first needs one and was told of none."""
    global _look_up
    _look_up = function


def start_again(function: Callable[[str], bool] | None) -> None:
    """Lets a function start the daemon of a socket that has ended, as this process must not. It returns whether."""
    global _start_again
    _start_again = function


def _find_socket() -> None:
    if _socket == "" and _connection is None and _look_up is not None:
        _look_up()


def forget() -> None:
    """Lets go of the connection. Refs keep theirs."""
    global _connection, _socket
    with _lock:
        _connection, _socket = None, ""


def _attached_elsewhere(socket: str) -> Invalid:
    assert _connection is not None
    return Invalid(f"this process is attached to {_connection.socket}, not {socket}", "use one socket per process")


def is_attached() -> bool:
    return _connection is not None and _pid == os.getpid() and _connection.alive


def current() -> _muster.Connection | None:
    """Returns the connection, if this process has one. Never connects."""
    return _connection if is_attached() else None


def connection() -> _muster.Connection:
    """Returns the connection. Connects first if this process, for instance a forked child, has none yet."""
    if _start_again is None:
        return _connection_now()
    current = _connection
    if current is not None and _pid == os.getpid() and current.still_served():
        return current
    try:
        return _connection_now()
    except DaemonUnavailable:
        if not _start_again(_socket):
            raise
    return _connection_now()


def _connection_now() -> _muster.Connection:
    """The same, and nobody is asked to start a daemon that has ended."""
    global _connection, _pid
    current = _connection
    if current is not None and _pid == os.getpid() and current.alive:
        return current
    _find_socket()
    with _lock:
        if not is_attached():
            # A forked child connects to its parent's daemon.
            _connection = _attach()
            _pid = os.getpid()
        assert _connection is not None
        return _connection


def has_daemon() -> bool:
    """Whether this process's daemon is there, or can be connected to. Looks at the connection."""
    current = _connection
    if current is not None and _pid == os.getpid() and current.still_served():
        return True
    try:
        _connection_now()
    except DaemonUnavailable:
        return False
    return True


def _attach() -> _muster.Connection:
    """Connects to the running daemon, whatever its settings, or starts one with the settings that were given before."""
    try:
        return _connect(_socket, "", None, False)
    except DaemonUnavailable:
        if not _may_start:
            raise
    return _connect(_socket, *_settings, True)


def _connect(socket: str, memory: str, pickle_lease: float | None, start: bool) -> _muster.Connection:
    # In a virtual environment that is not activated, musterd is beside the interpreter and not on PATH.
    folder = str(pathlib.Path(sys.executable).parent) if sys.executable else ""
    try:
        return _muster.connect(socket, memory, pickle_lease, folder, _nccl_wheel() if start else "", start)
    except DaemonUnavailable as error:
        if start or not _had(socket):
            raise
        raise DaemonUnavailable(f"the daemon of this process has ended: {error.message}", error.hint) from None


def _nccl_wheel() -> str:
    """Returns the library of the wheel nvidia-nccl in this program's environment; empty if it has none."""
    for folder in sys.path:
        file = pathlib.Path(folder, "nvidia", "nccl", "lib", "libnccl.so.2")
        with contextlib.suppress(OSError):  # this user may not look into every folder
            if file.is_file():
                return str(file.absolute())
    return ""


def _had(socket: str) -> bool:
    """Whether this process, or the process that it was forked from, was connected to that socket."""
    return _connection is not None and socket in ("", _connection.socket)


def socket_path() -> str:
    """The socket of this process's daemon; empty if it is not connected yet, and was told of none."""
    _find_socket()
    return _socket


def status() -> dict[str, Any]:
    """Returns the daemon's own figures, with the names of ``muster status --json``.

    Among others: ``memory_bytes`` (the budget), ``memory_used_bytes``, ``memory_peak_bytes``, ``heap_bytes`` (the limit
    of the daemon's own memory for its books), ``heap_used_bytes``, ``maps_max`` (the limit of its memory mappings, one
    for each segment and each client), ``maps_used``, ``objects``, ``bytes_deposited``, ``bytes_copied``,
    ``bytes_reduced``, ``ops_done``, ``ops_failed`` and ``ops_in_flight``.

    Raises:
        DaemonUnavailable: the daemon has ended.
    """
    return dict(_muster.status(connection()))


def _reset_lock_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_lock_in_child)
