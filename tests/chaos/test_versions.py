"""Clients that find another daemon than they expect get a typed error, and start no daemon instead."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import subprocess
import tempfile
import threading
import types

import pytest
from chaos_harness import PATIENCE_S, WARM, find_muster
from flat import frame
from raw_client import CODES, PROTOCOL

from daemon import ranks

CODE = {name: code for code, name in CODES.items()}


@contextlib.contextmanager
def pretender(answer: bytes, fds: int = 0, reads: bool = True):
    """Listens where a daemon should, and gives the same answer to every client."""
    with tempfile.TemporaryDirectory(prefix="muster-") as folder:
        path = str(pathlib.Path(folder) / "d.sock")
        with pretender_at(path, answer, fds, reads):
            yield types.SimpleNamespace(socket=path)


@contextlib.contextmanager
def pretender_at(path: str, answer: bytes, fds: int = 0, reads: bool = True):
    kind = (socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(*kind) as listener:
        listener.bind(path)
        listener.listen()
        over = threading.Event()

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if over.is_set():
                        return
                    if reads:
                        connection.recv(1 << 16)
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        socket.send_fds(connection, [answer], [0] * fds)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            with socket.socket(*kind) as last:
                last.connect(path)
            thread.join()


def init(_rank):
    import muster

    with pytest.raises(muster.Error) as error:
        muster.init()
    return type(error.value).__name__, str(error.value)


REFUSAL = {"code": CODE["invalid"], "message": "the client speaks protocol 1, this daemon protocol 0", "hint": "a hint"}
NEWER = f"speaks protocol {PROTOCOL + 1}"
TOO_MANY = {"code": CODE["quota_exceeded"], "reason": "7 clients are connected", "hint": "raise --clients-max"}
ANSWERS = {
    "an older daemon": (frame("Failure", 1, **REFUSAL), 0, "Invalid", "this daemon protocol 0"),
    "a newer daemon": (frame("Welcome", 1, protocol=PROTOCOL + 1, version="9"), 3, "Invalid", NEWER),
    "a daemon that is full": (frame("Goodbye", 0, **TOO_MANY), 0, "QuotaExceeded", "7 clients are connected"),
    "no daemon": (b"HTTP/1.1 400 Bad Request", 0, "Invalid", "is not a musterd: a packet is not a frame"),
    "a Welcome without rings": (frame("Welcome", 1, protocol=PROTOCOL, version="1"), 0, "Invalid", "is not a musterd"),
    "another answer": (frame("Ok", 1), 0, "Invalid", "is not a musterd"),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("reads", [True, False])
def test_libmuster_meets(name, reads):
    """If `reads` is False, it answers and closes before it has read the request, like a daemon that refuses at once."""
    answer, fds, error, what = ANSWERS[name]
    with pretender(answer, fds, reads) as daemon, ranks(daemon, init, 1, context=WARM) as (_, results):
        _, good, told = results.get(timeout=PATIENCE_S)
    assert good, told
    assert (told[0], what in told[1]) == (error, True), told


@pytest.mark.parametrize("name", ["an older daemon", "a newer daemon", "a daemon that is full", "no daemon"])
def test_the_command_meets(name):
    answer, fds, error, what = ANSWERS[name]
    with pretender(answer, fds) as daemon:
        done = subprocess.run(
            [find_muster(), "status", "--socket", daemon.socket],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.returncode in (1, 5)
    assert error in done.stderr
    assert what in done.stderr
