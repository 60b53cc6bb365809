"""A real musterd for a test, and real processes that use it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import traceback

START_S = 30
SPAWN = multiprocessing.get_context("spawn")


class Daemon:
    """musterd on a socket in a folder of its own."""

    def __init__(
        self,
        *options: str,
        environment: dict[str, str] | None = None,
        fds_max: int | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-py-"))
        self.socket = str(self.folder / "d.sock")
        program = os.environ.get("MUSTER_DAEMON") or shutil.which("musterd")
        assert program, "musterd is not on PATH"
        read_end, write_end = os.pipe()
        self.log = (self.folder / "log").open("w+")
        self.process = subprocess.Popen(
            [*prefix, program, "--socket", self.socket, "--ready-fd", str(write_end), *options],
            pass_fds=[write_end],
            stderr=self.log,
            env={**os.environ, **(environment or {})},
            preexec_fn=fds_max and (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (fds_max, fds_max))),
        )
        os.close(write_end)
        with os.fdopen(read_end) as ready:
            assert ready.readline() == "0\n", self.output()

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        self.log.flush()
        return (self.folder / "log").read_text()

    def status(self) -> dict:
        """Returns what ``muster status`` reports: this process does not become a client."""
        return self._ask("status")

    def status_once(self, condition, patience_s: float = 60) -> dict:
        """Returns the status when the condition first holds for it. Bounded: a leak must not keep a test for ever."""
        until = time.monotonic() + patience_s
        while not condition(told := self.status()):
            assert time.monotonic() < until, told
        return told

    def needed(self) -> list[dict]:
        """Returns the objects that somebody holds or an op needs, without those that only a pickle's lease keeps."""
        return [each for each in self._ask("ls")["objects"] if each["holders"] or each["in_ops"]]

    def until_nothing_is_needed(self, patience_s: float = 60) -> None:
        """Waits, as the daemon gives back in pieces what an ended client held, and may forget the client before."""
        until = time.monotonic() + patience_s
        while needed := self.needed():
            assert time.monotonic() < until, needed

    def _ask(self, question: str) -> dict:
        command = [os.environ.get("MUSTER_CLI", "muster"), question, "--json", "--socket", self.socket]
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=START_S).stdout)

    def stop(self) -> None:
        """Ends the daemon in an orderly way; it must not have crashed before."""
        assert self.process.poll() is None, f"musterd ended with {self.process.returncode}:\n{self.output()}"
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(START_S) == 0, self.output()
        self.log.close()
        shutil.rmtree(self.folder)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


def _run(function, environment: dict[str, str], rank: int, arguments: tuple, results) -> None:
    os.environ.update(environment)
    try:
        results.put((rank, True, function(rank, *arguments)))
    except BaseException as error:
        results.put((rank, False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


@contextlib.contextmanager
def ranks(daemon: Daemon, function, count: int, *arguments, context=SPAWN, environments=None):
    """Starts `function(rank, *arguments)` in fresh processes; yields (processes, queue of (rank, ok, value)).

    ``environments`` has, by rank, variables in addition to the daemon's socket.
    """
    results = context.Queue()
    processes = []
    for rank in range(count):
        environment = {"MUSTER_SOCKET": daemon.socket, **(environments or {}).get(rank, {})}
        processes.append(context.Process(target=_run, args=(function, environment, rank, arguments, results)))
    for process in processes:
        process.start()
    try:
        yield processes, results
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def run_ranks(daemon: Daemon, function, count: int, *arguments) -> list:
    """Returns the values of `function(rank, *arguments)` in `count` processes, by rank."""
    with ranks(daemon, function, count, *arguments) as (processes, results):
        values = {}
        for _ in range(count):
            rank, good, value = results.get(timeout=90)
            assert good, f"rank {rank}: {value}"
            values[rank] = value
        for process in processes:
            process.join(30)
            assert process.exitcode == 0
    return [values[rank] for rank in range(count)]


def output_of(command: list[str], environment: dict[str, str], patience_s: float, folder: pathlib.Path) -> str:
    """Returns what a program prints; it must end well."""
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=patience_s
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
