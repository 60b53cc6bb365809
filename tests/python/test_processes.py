"""Fork, spawn, threads, asyncio, signals, and the daemon that init() starts."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import muster as package
import numpy as np
import pytest
from forks import in_child

from daemon import Daemon, output_of, run_ranks

FORK = multiprocessing.get_context("fork")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestFork:
    def test_a_child_attaches_by_itself_and_uses_inherited_refs(self, muster):
        ref = muster.put(np.arange(6))

        def child():
            own = muster.put(np.ones(6, np.int64))
            return ref.get().tolist(), muster.allreduce_refs([ref, own]).result().tolist()

        assert in_child(child) == (list(range(6)), [1, 2, 3, 4, 5, 6])
        np.testing.assert_array_equal(ref.get(), np.arange(6))

    def test_what_a_child_drops_stays_with_the_parent(self, muster):
        ref = muster.put(np.arange(6))

        def child():
            ref.free()
            return True

        assert in_child(child)
        np.testing.assert_array_equal(ref.get(), np.arange(6))

    def test_a_childs_writes_stay_in_the_child(self, muster):
        array = muster.empty(5000)
        array[:] = 1

        def child():
            array[:] = 2
            return float(array.sum())

        assert in_child(child) == 10000
        assert float(array.sum()) == 5000

    def test_a_parents_later_writes_do_not_show_in_the_child(self, muster):
        array = muster.empty(5000)
        array[:] = 1
        ready_read, ready_write = os.pipe()
        answer_read, answer_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(ready_read, 1)
            os.write(answer_write, b"y" if (array == 1).all() else b"n")
            os._exit(0)
        array[:] = 2
        os.write(ready_write, b"x")
        assert os.read(answer_read, 1) == b"y"
        os.waitpid(child, 0)

    def test_views_of_the_parent_hold_in_the_child_after_the_parent_dropped_them(self, muster):
        ref = muster.put(np.arange(5000))
        view = ref.get()
        ready_read, ready_write = os.pipe()
        answer_read, answer_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(ready_read, 1)
            os.write(answer_write, b"y" if (view == np.arange(5000)).all() else b"n")
            os._exit(0)
        del view, ref
        gc.collect()
        others = [muster.put(np.full(5000, -1)) for _ in range(20)]
        os.write(ready_write, b"x")
        assert os.read(answer_read, 1) == b"y"
        os.waitpid(child, 0)
        assert others

    def test_ranks_may_be_forked_children(self, muster):
        def child(rank, results):
            with muster.group("forked", rank=rank, world_size=3) as group:
                results.put(int(group.allreduce(rank + 1).result()))

        results = FORK.Queue()
        children = [FORK.Process(target=child, args=(rank, results)) for rank in range(3)]
        for one in children:
            one.start()
        assert [results.get(timeout=60) for _ in range(3)] == [6, 6, 6]
        for one in children:
            one.join()


def _spawned(rank, pickled):
    return pickle.loads(pickled).get().tolist()


def test_a_ref_can_be_sent_to_a_fresh_process(muster, shared_daemon):
    ref = muster.put(np.arange(4))
    assert run_ranks(shared_daemon, _spawned, 2, pickle.dumps(ref)) == [[0, 1, 2, 3]] * 2


def test_awaiting_works(muster):
    async def rank(group, value):
        return int(await group.allreduce(value))

    async def all_ranks():
        groups = [muster.group("awaited", rank=r, world_size=3) for r in range(3)]
        try:
            return await asyncio.gather(*(rank(group, r) for r, group in enumerate(groups)))
        finally:
            for group in groups:
                group.leave()

    assert asyncio.run(all_ranks()) == [3, 3, 3]


def test_callbacks_exceptions_and_wait(muster):
    called = threading.Event()
    with muster.group("callbacks", rank=0, world_size=2) as first:
        work = first.allreduce(np.zeros(2))
        work.add_done_callback(lambda _: called.set())
        late = first.allreduce(np.zeros(2))
        assert muster.wait([work, late], timeout=0.01) == ([], [work, late])
        with muster.group("callbacks", rank=1, world_size=2) as second:
            bad = second.allreduce(np.zeros(3))
            assert isinstance(bad.exception(), package.Mismatch)
            assert work.done()
            assert isinstance(work.exception(), package.Mismatch)
            assert called.wait(10)
            ready, pending = muster.wait([late, work], timeout=5)
            assert (ready, pending) == ([work], [late])


ENDS_WITH_DAEMON_THREADS = """
import ctypes
import threading
import numpy as np
import muster

started = [threading.Event() for _ in range(4)]

def churn(event):
    while True:
        muster.put(np.ones(1000)).get()
        event.set()

class Late:
    def __del__(self):  # the interpreter is ending: threads that ask for the GIL from here on are to stop
        for _ in range(10**6):
            pass

late = Late()
libc = ctypes.CDLL(None)
libc.on_exit(libc.getchar, None)  # the process goes on without its interpreter
work = muster.group("daemon-threads", rank=0, world_size=2).barrier()
threading.Thread(target=work.result, daemon=True).start()
for event in started:
    threading.Thread(target=churn, args=(event,), daemon=True).start()
for event in started:
    event.wait()
print("end")
"""


def test_an_interpreter_ends_while_daemon_threads_use_the_store(muster):
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", ENDS_WITH_DAEMON_THREADS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # waits look for signals every 50 ms
        out, error = process.communicate("x", timeout=60)
        assert (process.returncode, out) == (0, "end\n"), error


ENDS_IN_DECORATED_CALLS = """
import threading
import time
import muster

decorated = muster.collective_input(lambda: time.sleep(0.0005))
started = [threading.Event() for _ in range(8)]

def loop(event):
    while True:
        decorated()
        event.set()

for event in started:
    threading.Thread(target=loop, args=(event,), daemon=True).start()
for event in started:
    event.wait()
print("end")
"""


def test_an_interpreter_ends_while_daemon_threads_are_in_decorated_calls(muster):
    for _ in range(3):
        command = [sys.executable, "-c", ENDS_IN_DECORATED_CALLS]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout) == (0, "end\n"), ended.stderr


def test_control_c_interrupts_a_wait(muster):
    with muster.group("interrupted", rank=0, world_size=2) as group:
        work = group.allreduce(1)
        waiting = threading.Event()

        def interrupt():
            waiting.wait()
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        waiting.set()
        with pytest.raises(KeyboardInterrupt):
            work.result()
        thread.join()


START = "import muster; muster.init(); print(muster.status()['pid'], flush=True); input()"


@pytest.fixture
def nowhere():
    """Yields a socket without a daemon. Afterwards ends whatever was started there."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-init-"))
    socket = str(folder / "d.sock")
    yield socket
    subprocess.run([shutil.which("muster") or "muster", "stop", "--socket", socket], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def test_many_processes_start_one_daemon(nowhere):
    environment = {**os.environ, "MUSTER_SOCKET": nowhere}
    many = [
        subprocess.Popen(
            [sys.executable, "-c", START], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(50)
    ]
    pids = {process.stdout.readline().strip() for process in many}
    for process in many:
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    assert len(pids) == 1
    assert pids.pop().isdigit()


def test_a_daemon_survives_its_starter_and_a_killed_starter_is_no_hindrance(nowhere):
    environment = {**os.environ, "MUSTER_SOCKET": nowhere}
    first = subprocess.Popen(
        [sys.executable, "-c", START], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid = first.stdout.readline().strip()
    first.kill()
    first.communicate()
    second = subprocess.run(
        [sys.executable, "-c", START], env=environment, input="\n", capture_output=True, text=True, timeout=60
    )
    assert second.stdout.strip() == pid


def test_another_budget_than_the_running_daemons_is_invalid_and_says_both(shared_daemon):
    code = "import muster\ntry: muster.init(memory='3GiB')\nexcept muster.Invalid as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "3GiB" in done.stdout
    assert "2 GiB" in done.stdout


AFTER_A_RESTART = """
import os, select, signal
import muster
muster.init(memory="96MiB", pickle_lease=7.5)
pid = muster.status()["pid"]
old = muster.put(1)
group = muster.group("old", rank=0, world_size=1)
end = os.pidfd_open(pid)
os.kill(pid, signal.SIGKILL)
assert select.select([end], [], [], 30)[0]
while True:
    try:
        told = muster.status()
        break
    except (muster.DaemonUnavailable, muster.DaemonRestarted):
        pass
assert told["pid"] != pid
assert told["memory_bytes"] == 96 << 20, told
muster.init(memory="96MiB", pickle_lease=7.5)
new = muster.put(2)
for use in (group.barrier, lambda: group.allreduce(new), lambda: muster.allreduce_refs([old, new]).result()):
    try:
        use()
    except muster.DaemonRestarted as error:
        assert "make the refs again" in error.hint, error.hint
    else:
        raise AssertionError(use)
assert muster.group("old", rank=0, world_size=1).allreduce(new).result(timeout=10) == 2
try:
    muster.init(pickle_lease=8)
except muster.Invalid as error:
    print(error)
"""


def test_the_next_daemon_is_started_as_the_first_one_was(nowhere):
    environment = {**os.environ, "MUSTER_SOCKET": nowhere}
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_RESTART], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "a pickle lease of 8 s was asked for" in done.stdout
    assert "runs with 7.5 s" in done.stdout


AFTER_ITS_END = """
import os, select, signal, sys
import muster
attach = {
    "init": lambda: muster.init(start=False),
    "with its socket": lambda: muster.init(socket=os.environ["MUSTER_SOCKET"], start=False),
    "status": muster.status,
    "put": lambda: muster.put(1),
}[sys.argv[1]]
muster.init(start=False)
held = muster.put(1)
pid = muster.status()["pid"]
end = os.pidfd_open(pid)
os.kill(pid, signal.SIGKILL)
assert select.select([end], [], [], 30)[0]
if sys.argv[1] == "put":  # what notices is another call
    try:
        held.get()
        muster.status()
    except muster.DaemonUnavailable:
        pass
try:
    attach()
except muster.DaemonUnavailable as error:
    print(error)
for _ in range(2):
    try:
        muster.put(2)
    except muster.DaemonUnavailable as error:
        assert "muster start" in error.hint, error
    else:
        raise AssertionError("there is a daemon")
"""


@pytest.mark.parametrize("attach", ["init", "with its socket", "status", "put"])
def test_a_process_that_may_start_no_daemon_is_told_at_once_that_its_own_has_ended(attach):
    daemon = Daemon("--memory", "64MiB")
    environment = {**os.environ, "MUSTER_SOCKET": daemon.socket}
    done = subprocess.run(
        [sys.executable, "-c", AFTER_ITS_END, attach], env=environment, capture_output=True, text=True, timeout=60
    )
    daemon.kill()
    assert done.returncode == 0, done.stderr
    assert "the daemon" in done.stdout
    assert "muster start" in done.stdout
    if "init" in attach:
        assert f"has ended: no daemon listens at {daemon.socket}" in done.stdout


OF_A_DAEMON_THAT_IS_GONE = """
import os, pickle, signal
import muster
group = muster.group("g", rank=0, world_size=1)
pickled = pickle.dumps(muster.put(1.0))
told = os.fork()
if told == 0:
    try:
        group.allreduce(1)
    except muster.DaemonUnavailable as error:
        print("fork:", error, flush=True)
    os._exit(0)
os.waitpid(told, 0)
os.kill(muster.status()["pid"], signal.SIGKILL)
try:
    while True:
        group.allreduce(1).result()
except muster.DaemonUnavailable as error:
    print("end:", error)
try:
    pickle.loads(pickled)
except muster.DaemonUnavailable as error:
    print("ref:", error)
"""


def test_what_belonged_to_a_daemon_that_is_gone_says_so():
    daemon = Daemon("--memory", "64MiB")
    environment = {**os.environ, "MUSTER_SOCKET": daemon.socket}
    done = subprocess.run(
        [sys.executable, "-c", OF_A_DAEMON_THAT_IS_GONE], env=environment, capture_output=True, text=True, timeout=60
    )
    daemon.kill()
    assert done.returncode == 0, done.stderr
    assert "a forked child can't use its parent's connection and groups (hint: attach in the child: " in done.stdout
    assert "muster.init() and muster.group()" in done.stdout
    assert f"end: the daemon at {daemon.socket} closed the connection (hint: its log, " in done.stdout
    assert f"ref: the daemon that has the ref's object is gone: no daemon listens at {daemon.socket}" in done.stdout


def test_a_process_that_is_attached_starts_no_daemon_on_another_socket(shared_daemon, nowhere, tmp_path):
    code = f"import muster\nmuster.init()\ntry: muster.init(socket={nowhere!r})\nexcept muster.Invalid as e: print(e)"
    printed = output_of([sys.executable, "-c", code], {**os.environ}, 60, tmp_path)
    assert f"attached to {shared_daemon.socket}, not {nowhere} (hint: " in printed
    assert not pathlib.Path(nowhere).exists()


STARTS_NONE = """
import muster
for use in (lambda: muster.init(start=False), lambda: muster.put(1.0), muster.status):
    try:
        use()
    except muster.DaemonUnavailable as error:
        print(error.code)
"""


def test_a_process_that_may_start_no_daemon_starts_none_after_its_init_failed(nowhere, tmp_path):
    environment = {**os.environ, "MUSTER_SOCKET": nowhere}
    assert (
        output_of([sys.executable, "-c", STARTS_NONE], environment, 60, tmp_path).split() == ["DaemonUnavailable"] * 3
    )
    assert not pathlib.Path(nowhere).exists()


def test_a_budget_may_be_a_number_of_bytes(nowhere, tmp_path):
    code = "import muster; muster.init(memory=64 << 20); print(muster.status()['memory_bytes'])"
    environment = {**os.environ, "MUSTER_SOCKET": nowhere}
    assert int(output_of([sys.executable, "-c", code], environment, 60, tmp_path)) == 64 << 20


def test_a_daemon_that_is_elsewhere_is_started_elsewhere(tmp_path):
    code = "import muster\ntry: muster.init(socket='s', start=False)\nexcept muster.Error as error: print(error.hint)"
    printed = output_of([sys.executable, "-c", code], {**os.environ}, 60, tmp_path)
    assert printed.startswith("start one: muster start --socket ")
    assert printed.endswith("s\n")


def test_status_tells_what_the_command_tells(muster, shared_daemon):
    told, shown = muster.status(), shared_daemon.status()
    assert shown.keys() >= told.keys() >= shown.keys() - {"users", "users_total", "clients", "incarnation", "log"}
    for name in ("version", "socket", "pid", "memory_bytes", "heap_bytes", "maps_max", "lanes"):
        assert told[name] == shown[name]
    assert 0 < told["heap_used_bytes"] <= told["heap_bytes"]
    assert 0 < told["maps_used"] <= told["maps_max"]


@pytest.mark.parametrize("lease", [-1, float("nan"), "long", 1e9])
def test_a_lease_that_is_no_time_is_refused(muster, lease):
    with pytest.raises(package.Invalid, match="pickle_lease"):
        package.init(pickle_lease=lease)


def test_the_daemon_is_found_beside_an_interpreter_whose_environment_is_not_activated(nowhere, tmp_path):
    (tmp_path / "python").symlink_to(sys.executable)
    program = os.environ.get("MUSTER_DAEMON") or shutil.which("musterd")
    (tmp_path / "musterd").symlink_to(pathlib.Path(program).resolve())
    kept = {name: value for name, value in os.environ.items() if name not in ("MUSTER_DAEMON", "VIRTUAL_ENV", "PATH")}
    paths = os.pathsep.join([*sys.path, str(pathlib.Path(np.__file__).parents[1])])
    environment = {**kept, "MUSTER_SOCKET": nowhere, "PATH": "/nowhere", "PYTHONPATH": paths}
    code = "import muster; muster.init(memory='64MiB'); print(muster.put(3).get())"
    done = subprocess.run(
        [tmp_path / "python", "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3"]


def test_a_daemon_is_told_of_the_nccl_in_its_starters_environment(nowhere, tmp_path):
    wheel = tmp_path / "nvidia" / "nccl" / "lib" / "libnccl.so.2"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    code = "import muster; muster.init(memory='64MiB'); print(muster.status()['pid'])"
    paths = os.pathsep.join([*filter(None, sys.path), str(tmp_path)])
    environment = {**os.environ, "MUSTER_SOCKET": nowhere, "PYTHONPATH": paths}
    pid = output_of([sys.executable, "-c", code], environment, 60, tmp_path).strip()
    words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert pathlib.Path(words[words.index("--nccl-wheel") + 1]).name == "libnccl.so.2"
    if not any(pathlib.Path(path, "nvidia/nccl").exists() for path in sys.path):
        assert words[words.index("--nccl-wheel") + 1] == str(wheel)
