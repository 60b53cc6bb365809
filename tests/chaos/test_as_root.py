"""Tests that only root can run: they become another user, or keep a file locked in the kernel (userfaultfd)."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import pathlib
import re
import struct
import threading

import pytest
from chaos_harness import PATIENCE_S, serves_newcomers, wait_empty
from raw_client import CUT_OFF, PROTOCOL, RawClient

from daemon import Daemon


@pytest.fixture(autouse=True)
def root():
    assert os.geteuid() == 0, "run these tests as root, as tests/run does"


class HeldFiles:
    """Files that stay locked in the kernel while this object exists: a writer of each file waits in the middle of a
    write for a page that only this object could provide (userfaultfd)."""

    API, REGISTER, MISSING = 0xC018AA3F, 0xC020AA00, 1
    NUMBER = 282 if os.uname().machine == "aarch64" else 323

    def __init__(self) -> None:
        kernel = ctypes.CDLL(None, use_errno=True)
        self.faults = kernel.syscall(self.NUMBER, os.O_CLOEXEC)
        if self.faults < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd(2), which this test needs")
        self.page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.page))
        fcntl.ioctl(self.faults, self.API, bytearray(struct.pack("<QQQ", 0xAA, 0, 0)))
        area = struct.pack("<QQQQ", address, mmap.PAGESIZE, self.MISSING, 0)
        fcntl.ioctl(self.faults, self.REGISTER, bytearray(area))
        self.writers: list[threading.Thread] = []

    def hold(self, fd: int) -> None:
        writer = threading.Thread(target=os.pwrite, args=(fd, self.page, 0))
        writer.start()
        self.writers.append(writer)
        os.read(self.faults, 32)  # the writer waits for the page

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self.faults)
        for writer in self.writers:
            writer.join()


def test_files_that_their_writer_keeps_locked(many_descriptors, daemon, pair):
    """Sealing one takes as long as its writer likes. Many files of one process share one thread of the daemon."""
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(HeldFiles())
        clients = [stack.enter_context(RawClient(daemon)) for _ in range(40)]
        fds = []
        for client in clients:
            segment, (fd,) = client.ask("Lease", bytes=4096, timeout_ms=1000)
            held.hold(fd)
            client.send("Mapped", segment=segment.segment)
            fds.append(fd)
        pair.goes_on()
        # Newcomers' segments are sealed, and the newcomers' resources are given back.
        serves_newcomers(daemon)
        threads = len(list(pathlib.Path(f"/proc/{daemon.pid}/task").iterdir()))
        assert threads < 40, threads
    for fd in fds:
        os.close(fd)


def test_rings_that_their_client_keeps_locked(many_descriptors, daemon, pair):
    """The same for rings: nobody else waits for their seals, or for their end."""
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(HeldFiles())
        for number in range(40):
            client = stack.enter_context(RawClient(daemon, greet=False))
            client.send("Hello", protocol=PROTOCOL, name="hostile")
            welcome, fds = client.receive()
            rings = os.dup(fds[0])
            stack.callback(os.close, rings)
            client.welcomed(welcome, fds, opens=False)
            held.hold(rings)
            if number % 2 == 0:
                client.send("Mapped", segment=0)
            assert client.send("StatusQuery")
            assert client.name_of_next() == "StatusReply"
            if number % 4 < 2:
                client.close()
        pair.goes_on()
        serves_newcomers(daemon)
        threads = len(list(pathlib.Path(f"/proc/{daemon.pid}/task").iterdir()))
        assert threads < 40, threads


@contextlib.contextmanager
def as_user(user: int):
    """Connections made meanwhile count as this user's processes for the daemon."""
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


def farewell_so_far(client: RawClient) -> str:
    """Returns the reason of a Goodbye that has come already; raises BlockingIOError if nothing has come."""
    client.socket.setblocking(False)
    try:
        return client.receive()[0].reason
    finally:
        client.socket.settimeout(PATIENCE_S)


@pytest.mark.parametrize("say_hello", [False, True])
def test_another_user_leaves_connections_for_the_daemons_own(say_hello):
    daemon = Daemon("--memory", "512MiB", "--clients-max", "64", "--socket-mode", "0666")
    daemon.folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        reason = None
        while reason is None:
            with as_user(65534):
                client = stack.enter_context(RawClient(daemon, greet=False))
            if say_hello:
                with contextlib.suppress(*CUT_OFF):  # refused already
                    client.send("Hello", protocol=PROTOCOL, name="hostile", rings=False)
                answer, _ = client.receive()
                reason = answer.reason if answer.name == "Goodbye" else None
            else:
                # A later connection gets its answer later.
                with RawClient(daemon) as asker:
                    assert asker.survives()
                with contextlib.suppress(BlockingIOError):
                    reason = farewell_so_far(client)
        assert re.match(r"\d+ clients of user 65534", reason), reason
        for _ in range(24):
            assert stack.enter_context(RawClient(daemon)).survives()
        serves_newcomers(daemon)
    wait_empty(daemon)
    daemon.stop()
