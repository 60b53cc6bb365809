"""The systems under test: how to start each with its best ordinary settings, and how to give it orders."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator

RANKS = pathlib.Path(__file__).resolve().parents[1] / "ranks"
MPIRUN = (
    "mpirun --oversubscribe --allow-run-as-root --bind-to none --mca mpi_yield_when_idle 1 --mca btl self,vader "
    "-x BENCH_SOCKET -x PYTHONPATH -n {ranks}"
)
ONE_PROCESS = ("stream", "ray_store", "muster_tasks")
START_S = 120
ROUND_S = 300
#: What Muster's daemon of this run works for. Others have one of their own.
USE_DAEMON = ("muster", "muster_torch")


@dataclasses.dataclass(frozen=True)
class System:
    """A system: its name and client in the JSON lines, and the command that starts all its ranks."""

    name: str
    client: str
    command: tuple[str, ...]


def systems(built: pathlib.Path, python: str, ranks: int) -> list[System]:
    """Returns the systems that are installed here. The command of each starts `ranks` ranks."""
    mpirun = tuple(MPIRUN.format(ranks=ranks).split())
    muster_run = ("muster", "run", "-n", str(ranks), "--group", f"bench-{ranks}", "--")
    found = [
        System("stream", "c++", (str(built / "stream"), str(ranks))),
        System("muster", "c++", (*muster_run, str(built / "muster_rank"))),
        System("muster", "python", (*muster_run, python, str(RANKS / "muster_rank.py"))),
    ]
    if ranks in (1, 4):
        found.append(System("ray_store", "python", (python, str(RANKS / "ray_rank.py"))))
    if ranks == 1:
        return found
    found.append(System("mailbox", "c++", (str(built / "mailbox"), str(ranks))))
    found.append(System("gloo", "python", _torch(python, "gloo", ranks)))
    if shutil.which("mpirun") and (built / "mpi_rank").exists():
        found.append(System("openmpi", "c++", (*mpirun, str(built / "mpi_rank"))))
        found.append(System("mpi4py", "python", (*mpirun, python, str(RANKS / "mpi4py_rank.py"))))
    return found


def systems_under_torch(python: str, ranks: int) -> list[System]:
    """Returns what runs the same script of torch.distributed."""
    return [System(name, "python", _torch(python, name, ranks)) for name in ("muster_torch", "gloo_torch")]


def _torch(python: str, name: str, ranks: int) -> tuple[str, ...]:
    return (python, str(RANKS / "start_torch.py"), name, str(ranks))


def systems_under_ray(python: str) -> list[System]:
    """Returns what runs in a cluster of Ray. These are measured by themselves: an idle cluster takes a core now and
    then."""
    group = str(RANKS / "ray_group_rank.py")
    return [
        System("muster_ray", "python", (python, group, "muster_ray")),
        System("ray_collective", "python", (python, group, "ray_collective")),
        System("muster_tasks", "python", (python, str(RANKS / "muster_tasks_rank.py"))),
        System("ray_store", "python", (python, str(RANKS / "ray_rank.py"))),
    ]


class Contestant:
    """A running system. Between orders its ranks sleep in a read of their socket."""

    def __init__(self, system: System, ranks: int, environment: dict[str, str], folder: pathlib.Path) -> None:
        self.system = system
        self.ranks = 1 if system.name in ONE_PROCESS else ranks
        self.log = folder / f"{system.name}-{system.client}-{ranks}.log"
        path = str(folder / f"{system.name}-{system.client}-{ranks}")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(self.ranks)
        self._listener.settimeout(START_S)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                system.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **environment,
                    "BENCH_SOCKET": path,
                    "BENCH_RENDEZVOUS": f"file://{path}.rendezvous",
                    "BENCH_RANKS": str(ranks),
                },
                # A process group, so that all of it can be ended. Not a session: the kernel would share the cores out
                # among sessions.
                preexec_fn=os.setpgrp,
            )
        self.streams: list = [None] * self.ranks
        self.pids: list[int] = []
        for _ in range(self.ranks):
            connection = self._accept()
            connection.settimeout(ROUND_S)
            stream = connection.makefile("rw")
            _, _, rank, pid = stream.readline().split()
            self.streams[int(rank)] = stream
            self.pids.append(int(pid))

    def _accept(self) -> socket.socket:
        try:
            return self._listener.accept()[0]
        except TimeoutError:
            raise RuntimeError(f"{self.system.name} did not start:\n{self.log.read_text()}") from None

    def run(self, op: str, variant: str, count: int, rounds: int, seed: int) -> tuple[list[float], float]:
        """Returns the microseconds of each round's slowest rank, and the CPU microseconds of all ranks for one op."""
        before_us = daemon_cpu_us() if self.system.name in USE_DAEMON else 0.0
        for stream in self.streams:
            print("run", op, variant, count, rounds, seed, file=stream, flush=True)
        times: list[list[float]] = []
        cpu_us = 0.0
        for rank, stream in enumerate(self.streams):
            words = stream.readline().split()
            if not words or words[0] != "times":
                what = "gave a wrong result" if words else f"ended:\n{self.log.read_text()}"
                raise RuntimeError(f"{self.system.name} ({self.system.client}) rank {rank} {what}")
            cpu_us += float(words[1])
            times.append([float(word) for word in words[2:]])
        if self.system.name in USE_DAEMON:
            cpu_us += daemon_cpu_us() - before_us
        return [max(each) for each in zip(*times)], cpu_us / rounds

    def end(self) -> None:
        for stream in self.streams:
            with contextlib.suppress(OSError):
                print("quit", file=stream, flush=True)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._listener.close()


def daemon_cpu_us() -> float:
    """Returns the CPU time that all threads of Muster's daemon have used so far."""
    pid = int(os.environ["BENCH_DAEMON"])
    nanoseconds = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e3


@contextlib.contextmanager
def contestants(
    listed: list[System], ranks: int, environment: dict[str, str], only: Callable[[str, str], bool] = lambda *_: True
) -> Iterator[list[Contestant]]:
    """Starts the systems, with this number of ranks, for which `only(system, client)` holds; ends them, whatever
    happens."""
    running: list[Contestant] = []
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        try:
            for system in listed:
                if only(system.name, system.client):
                    running.append(Contestant(system, ranks, environment, pathlib.Path(folder)))
            yield running
        finally:
            for contestant in running:
                contestant.end()
