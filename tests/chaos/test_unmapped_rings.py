"""Rings are sealed once their client has mapped them. Before that the daemon neither reads nor writes them: any process
with the descriptor can punch holes into them and make others wait there. They are unmapped by a thread that nobody
waits for."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import re

import pytest
from chaos_harness import eventually, is_forgotten
from raw_client import (
    BARRIER,
    CHANNEL_BYTES,
    COMPLETION_TAIL,
    CONTRIBUTE,
    DONE,
    PROTOCOL,
    SUBMISSION_HEAD,
    RawClient,
    contribute,
)

from daemon import Daemon

SEAL_SEAL, SEAL_FUTURE_WRITE = 1, 16
KEEP_SIZE_AND_PUNCH_HOLE = 3

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def punch(fd: int) -> None:
    """Punches a hole over the whole file."""
    if libc.fallocate(fd, KEEP_SIZE_AND_PUNCH_HOLE, 0, CHANNEL_BYTES) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


@contextlib.contextmanager
def connected(daemon, opens: bool):
    """Returns a client and the file of its rings; `opens` says whether it tells the daemon that it has mapped them."""
    with RawClient(daemon, greet=False) as client:
        client.send("Hello", protocol=PROTOCOL, name="hostile")
        welcome, fds = client.receive()
        rings = os.dup(fds[0])
        try:
            client.welcomed(welcome, fds, opens)
            yield client, rings
        finally:
            os.close(rings)


def test_nothing_is_read_or_written_before_they_are_mapped(daemon, pair):
    with connected(daemon, opens=False) as (client, rings):
        punch(rings)
        seat = client.join("own", 0, 1).seat
        client.submit_in_parts(CONTRIBUTE, contribute(1, seat, kind=BARRIER))
        assert client.survives()
        assert os.fstat(rings).st_blocks == 0, "somebody has touched a page"
        client.submit(CONTRIBUTE, contribute(2, seat, kind=BARRIER))
        assert client.survives()
        assert (client.word(SUBMISSION_HEAD), client.word(COMPLETION_TAIL)) == (0, 0)
        assert client.ask("Mapped", segment=0)[0].name == "Ok"
        # The completions that waited come now, and the daemon reads the records that waited.
        assert client.wait_completion(DONE)
        assert client.wait_completion(DONE)


def test_nobody_can_punch_holes_into_them_or_map_them_anew(daemon, pair):
    with connected(daemon, opens=True) as (_, rings):
        assert fcntl.fcntl(rings, fcntl.F_GET_SEALS) & SEAL_FUTURE_WRITE
        with pytest.raises(PermissionError):
            punch(rings)
        with pytest.raises(PermissionError):
            mmap.mmap(rings, CHANNEL_BYTES)


def test_they_are_mapped_once_and_by_who_has_them(daemon, pair):
    with connected(daemon, opens=True) as (client, _):
        assert client.fails("Mapped", segment=0) == ("invalid", "the client's rings were mapped before")
        assert client.survives()
    with RawClient(daemon, greet=False) as client:
        client.send("Hello", protocol=PROTOCOL, name="hostile", rings=False)
        assert client.name_of_next() == "Welcome"
        assert client.fails("Mapped", segment=0) == ("invalid", "the client has no rings")


@pytest.mark.parametrize("seals", [SEAL_SEAL, SEAL_SEAL | SEAL_FUTURE_WRITE])
def test_a_client_that_forbids_to_seal_them(seals, daemon, pair):
    """The client gets the reason and ends. Others go on, and nothing stays charged."""
    with connected(daemon, opens=False) as (client, rings):
        fcntl.fcntl(rings, fcntl.F_ADD_SEALS, seals)
        client.submit(CONTRIBUTE, b"no record")
        client.send("Mapped", segment=0)
        code, reason = client.farewell()
        assert code == "invalid"
        assert "can't be sealed" in reason
        assert client.word(SUBMISSION_HEAD) == 0, "the daemon has read a ring that is not sealed"
        is_forgotten(daemon, client.id)


def test_a_client_that_seals_them_itself(daemon, pair):
    """Only the last of these seals keeps the daemon from adding its own."""
    with connected(daemon, opens=False) as (client, rings):
        fcntl.fcntl(rings, fcntl.F_ADD_SEALS, SEAL_FUTURE_WRITE)
        assert client.ask("Mapped", segment=0)[0].name == "Ok"
        seat = client.join("own", 0, 1).seat
        client.submit(CONTRIBUTE, contribute(1, seat, kind=BARRIER))
        assert client.wait_completion(DONE)


def test_they_are_unmapped_and_sealed_by_other_threads(tmp_path):
    """A thread that unmaps memory which others map may have to wait for them."""
    log = tmp_path / "calls"
    tracer = ("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", str(log), "-e", "trace=munmap,fcntl,madvise")
    daemon = Daemon("--memory", "64MiB", prefix=tracer, environment={"ASAN_OPTIONS": "detect_leaks=0"})

    def threads_that(call: str) -> list[int]:
        return [int(line.split()[0]) for line in log.read_text().splitlines() if re.search(call, line)]

    count = 3
    for opens in (True, False):
        for _ in range(count):
            with connected(daemon, opens) as (client, _):
                pass
            is_forgotten(daemon, client.id)
    unmapped = rf"munmap\(0x\w+, {CHANNEL_BYTES}\)"
    sealed = "F_ADD_SEALS.*F_SEAL_FUTURE_WRITE"
    populated = "POPULATE|0x17"
    eventually(lambda: len(threads_that(unmapped)), 2 * count)
    assert len(threads_that(sealed)) == 2 * count
    assert len(threads_that(populated)) == count
    assert daemon.pid not in threads_that(f"{unmapped}|{sealed}|{populated}")
    daemon.stop()
