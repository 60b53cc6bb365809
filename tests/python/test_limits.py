"""Limits of the system: a process that reaches one learns which it is and how to raise it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import resource
import subprocess
from collections.abc import Callable

import muster
import numpy as np
import pytest

from daemon import SPAWN, Daemon, ranks, run_ranks

#: More than fits in a first segment, so the process has to ask the daemon.
LARGE = 100 << 20


def _many_wait_for_memory(_rank, may_free):
    """Runs more threads than one process may have requests. Each thread frees at once what it gets."""
    held = muster.empty(5 << 20, np.uint8)
    with concurrent.futures.ThreadPoolExecutor(300) as threads:
        waiting = [threads.submit(lambda: muster.empty(5 << 20, np.uint8, timeout=60).nbytes) for _ in range(300)]
        may_free.wait(60)
        del held
        return [each.result() for each in waiting]


def test_threads_that_ask_for_more_at_once_than_the_daemon_takes_wait_their_turns():
    daemon = Daemon("--memory", "8MiB")
    may_free = SPAWN.Event()
    try:
        with ranks(daemon, _many_wait_for_memory, 1, may_free) as (_, results):
            daemon.status_once(lambda status: status["waiting_for_memory"] == 128)
            may_free.set()
            _, good, outcome = results.get(timeout=90)
            assert good, outcome
            assert outcome == [5 << 20] * 300
    finally:
        daemon.stop()


@contextlib.contextmanager
def no_descriptors():
    """Lets this process open no descriptor."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    filling = []
    with contextlib.suppress(OSError):
        while True:
            filling.append(os.open("/dev/null", os.O_RDONLY))
    try:
        yield
    finally:
        for descriptor in filling:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def no_address_space():
    """Lets this process map almost nothing more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (256 << 10), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def attaching():
    return muster.init


def putting():
    muster.init()
    array = np.ones(LARGE, np.uint8)
    return lambda: muster.put(array)


def emptying():
    muster.init()
    return lambda: muster.empty(LARGE, np.uint8)


def mapping_a_result():
    work = muster.allreduce_refs([muster.put(np.ones(LARGE, np.uint8))])
    assert work.wait(60)
    return work.result


def waiting_for_an_event():
    group = muster.group("events", rank=0, world_size=2)
    work = group.barrier()
    return lambda group=group: muster.wait([work], timeout=1)


def attaching_in_a_fork():
    ref = muster.put(1.0)

    def forked() -> None:
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            try:
                with no_descriptors():
                    ref.get()
            except muster.QuotaExceeded as error:
                os.write(write_end, str(error).encode())
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as said:
            raise muster.QuotaExceeded(said.read())

    return forked


def _message_at_the_limit(_rank, prepare, limit) -> str:
    call = prepare()
    with contextlib.nullcontext() if prepare is attaching_in_a_fork else limit():
        try:
            call()
        except muster.QuotaExceeded as error:
            message = str(error)
        else:
            return "no error"
    # The connection goes on, and so does everything that uses it.
    assert muster.put(2.0).get() == 2.0
    if prepare is not attaching_in_a_fork:
        call()
    return message


@pytest.mark.parametrize(
    "prepare", [attaching, putting, emptying, mapping_a_result, waiting_for_an_event, attaching_in_a_fork]
)
def test_who_can_open_no_more_descriptors_is_told_so(own_daemon, prepare):
    [message] = run_ranks(own_daemon, _message_at_the_limit, 1, prepare, no_descriptors)
    assert "limit of open files is 64" in message
    assert "ulimit -n" in message


@pytest.mark.parametrize("prepare", [attaching, putting, emptying, mapping_a_result])
def test_who_has_no_address_space_is_told_so(own_daemon, prepare):
    [message] = run_ranks(own_daemon, _message_at_the_limit, 1, prepare, no_address_space)
    assert "limit of address space is " in message
    assert "ulimit -v" in message


def _forked_without_descriptors(_rank) -> list[float]:
    ref = muster.put(np.arange(3.0))
    with no_descriptors():
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    return ref.get().tolist()


def test_a_fork_without_descriptors_costs_the_parent_nothing(own_daemon):
    assert run_ranks(own_daemon, _forked_without_descriptors, 1) == [[0.0, 1.0, 2.0]]


def _muster(command: str, socket: pathlib.Path, *prefix: str, **options) -> subprocess.CompletedProcess[str]:
    program = os.environ.get("MUSTER_CLI", "muster")
    words = [*prefix, program, command, "--socket", str(socket)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)


def _file_bytes_at_most(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_daemon_that_can_write_no_file_says_so_although_its_log_is_one(tmp_path):
    done = _muster("start", tmp_path / "d.sock", preexec_fn=_file_bytes_at_most(0, 0))
    assert done.returncode == 3
    assert "files of this process may have at most 0 B" in done.stderr
    assert "ulimit -f" in done.stderr


def test_a_daemon_raises_the_limit_of_files_where_it_may(tmp_path):
    done = _muster("start", tmp_path / "d.sock", preexec_fn=_file_bytes_at_most(0, resource.RLIM_INFINITY))
    assert done.returncode == 0, done.stderr
    assert _muster("stop", tmp_path / "d.sock").returncode == 0


@pytest.mark.parametrize(
    ("files", "what"), [(2, "can't open the daemon's log"), (3, "can't open the lock file"), (4, "can't bind")]
)
def test_a_daemon_on_a_full_disk_says_what_has_no_room(tmp_path, files, what):
    mount = f"mount -t tmpfs -o nr_inodes={files} none {tmp_path}"
    as_root = ("unshare", "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    assert subprocess.run([*as_root, "true"], check=False).returncode == 0, "run this as a user who may mount"
    done = _muster("start", tmp_path / "d.sock", *as_root)
    assert done.returncode == 3
    assert what in done.stderr
    assert "No space left on device" in done.stderr


def test_a_daemon_whose_settings_are_wrong_says_so(tmp_path):
    done = _muster("start", tmp_path / "d.sock", env={**os.environ, "MUSTER_LANES": "many"})
    assert done.returncode == 3
    assert "MUSTER_LANES: 'many' is not a whole number from 1 to 1024" in done.stderr
