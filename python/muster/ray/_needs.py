"""Who needs a node's daemon while it may have nothing in it: each such process has a shared lock of a file.

A task that computes has nothing in the store yet, nor has a process that waits for a task on another node. A keeper
that is going to end the daemon takes the file for itself first, so that nobody begins to need it meanwhile. A process
that ends gives its lock back, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import threading

#: By the socket of the daemon: the file, and how often this process needs it.
_needed: dict[str, tuple[int, int]] = {}
_lock = threading.Lock()


def begin(socket: str) -> bool:
    """Keeps a keeper from ending the daemon, until ``end``. False if one is doing that now. Never blocks."""
    with _lock:
        file, times = _needed.get(socket, (None, 0))
        if file is None:
            file = _taken(socket, fcntl.LOCK_SH)
        if file is None:
            return False
        _needed[socket] = file, times + 1
        return True


def end(socket: str) -> None:
    with _lock:
        file, times = _needed.pop(socket, (None, 0))
        if file is None:
            return  # it was forgotten
        if times > 1:
            _needed[socket] = file, times - 1
        else:
            os.close(file)


def is_needed(socket: str) -> bool:
    """Whether any process needs the daemon."""
    file = take(socket)
    if file is None:
        return True
    os.close(file)
    return False


def take(socket: str) -> int | None:
    """Returns the file, locked against everybody, until it is closed; None if a process needs the daemon."""
    return _taken(socket, fcntl.LOCK_EX)


def _taken(socket: str, how: int) -> int | None:
    file = os.open(f"{socket}.needed", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file


def forget() -> None:
    """Must be called when this process joins another cluster."""
    with _lock:
        for file, _ in _needed.values():
            os.close(file)
        _needed.clear()


def _forget_in_child() -> None:
    """A forked child needs nothing. What its parent needs stays."""
    global _lock
    _lock = threading.Lock()
    forget()


os.register_at_fork(after_in_child=_forget_in_child)
