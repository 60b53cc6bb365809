"""Attacks on sealed memory: whatever a process tries, no other process sees a changed byte."""

from __future__ import annotations

import ctypes
import mmap
import os
import pathlib
import re
import signal
import types

import muster
import numpy as np
from raw_client import RawClient

from daemon import SPAWN, ranks, run_ranks

LIBC = ctypes.CDLL(None, use_errno=True)
MADV_REMOVE = 9
SIZE = 1 << 16


def descriptors(name: str) -> list[int]:
    """Returns descriptors of the segments with that name, as the daemon gives them to every client of this user."""
    found = []
    with RawClient(types.SimpleNamespace(socket=os.environ["MUSTER_SOCKET"])) as client:
        for segment in range(1, 100):
            _, fds = client.ask("Map", segment=segment)
            found += [fd for fd in fds if f"memfd:{name}" in str(pathlib.Path(f"/proc/self/fd/{fd}").readlink())]
    return found


def _attack(_rank, pickled, kind):
    """Tries every attack on a segment that this process may read; returns which succeeded."""
    view = pickled.get()
    assert (view == 7).all()
    successes = []
    given = descriptors(f"muster-{kind}")
    assert given
    for own in given:
        for flags in (os.O_RDWR, os.O_RDONLY):
            try:
                fd = os.open(f"/proc/self/fd/{own}", flags)
            except OSError:
                continue
            _attack_descriptor(fd, successes)
            os.close(fd)
        _attack_descriptor(own, successes)
    address = view.__array_interface__["data"][0] & ~4095
    if LIBC.mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_WRITE) == 0:
        successes.append("mprotect")
    if LIBC.madvise(ctypes.c_void_p(address), 4096, MADV_REMOVE) == 0:
        successes.append("madvise")
    return successes


def _attack_descriptor(fd: int, successes: list[str]) -> None:
    attempts = {
        "write": lambda: os.pwrite(fd, b"x", 0),
        "truncate": lambda: os.ftruncate(fd, 0),
        "grow": lambda: os.ftruncate(fd, 1 << 40),
        "map": lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        "punch": lambda: _check(LIBC.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(4096))),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except (OSError, ValueError):
            continue
        successes.append(name)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "refused")


def test_a_reader_can_not_write_what_a_client_sealed(own_daemon):
    with ranks(own_daemon, _produce, 1, SPAWN.Event()) as (_, results):
        # The producer stays alive, and keeps its writable mapping.
        _, good, ref = results.get(timeout=60)
        assert good, ref
        assert run_ranks(own_daemon, _attack, 1, ref, "client") == [[]]
        assert run_ranks(own_daemon, _look, 1, ref) == [True]


def _produce(_rank, _forever):
    ref = muster.put(np.full(SIZE, 7, np.uint8))
    _KEPT.append(ref)
    # When the ref is sent through the queue, it is pickled there. The process lives on in its feeder thread until it is
    # killed.
    import threading

    threading.Thread(target=threading.Event().wait).start()
    return ref


_KEPT: list = []


def _look(_rank, ref):
    return bool((ref.get() == 7).all())


def _result(_rank):
    refs = [muster.put(np.full(SIZE, 3, np.uint8)), muster.put(np.full(SIZE, 4, np.uint8))]
    work = muster.allreduce_refs(refs)
    return _attack(0, work.ref, "result"), bool((work.result() == 7).all())


def test_nobody_can_write_a_result(own_daemon):
    assert run_ranks(own_daemon, _result, 1) == [([], True)]


def _producer_attacks(_rank):
    """The producer's own views are read-only, too. Only its mapping is writable, and it must not write there."""
    view = muster.put(np.full(SIZE, 7, np.uint8)).get()
    address = view.__array_interface__["data"][0]
    with pathlib.Path("/proc/self/maps").open() as maps:
        for line in maps:
            low, high = (int(edge, 16) for edge in re.match(r"([0-9a-f]+)-([0-9a-f]+)", line).groups())
            if low <= address < high:
                return line.split()[1]
    return None


def test_a_producers_views_do_not_alias_its_writable_memory(own_daemon):
    assert run_ranks(own_daemon, _producer_attacks, 1) == ["r--s"]


def _write_through_pointer(_rank):
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # a sanitizer would report the signal instead
    view = muster.put(np.full(SIZE, 7, np.uint8)).get()
    ctypes.memset(view.__array_interface__["data"][0], 0, 1)


def test_writing_through_a_raw_pointer_ends_the_writer_alone(own_daemon):
    with ranks(own_daemon, _write_through_pointer, 1) as (processes, _):
        processes[0].join(60)
        assert processes[0].exitcode == -signal.SIGSEGV


def _copy_on_write(_rank):
    ref = muster.put(np.full(SIZE, 7, np.uint8))
    private = np.from_dlpack(ref)
    writable = private if private.flags.writeable else private.view()
    if not writable.flags.writeable:
        # NumPy before 2.1 makes read-only arrays of any capsule; still, the memory behind it is private.
        ctypes.memset(private.__array_interface__["data"][0], 9, SIZE)
    else:
        writable[:] = 9
    return bool((private == 9).all()), bool((ref.get() == 7).all())


def test_writes_to_dlpack_views_stay_in_the_process(own_daemon):
    assert run_ranks(own_daemon, _copy_on_write, 1) == [(True, True)]


def test_the_daemon_can_not_be_dumped(own_daemon):
    owner = pathlib.Path(f"/proc/{own_daemon.pid}/environ").stat().st_uid
    assert owner == 0  # root owns these files if the process is not dumpable
