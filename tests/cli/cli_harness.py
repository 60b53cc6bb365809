"""Runs the real `muster` executable, with a daemon on a socket of the test's own."""

import errno
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import termios
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE_S = 60  # bounds how long something may take; no test waits this long when all is well


def find_muster() -> str:
    """Returns $MUSTER_CLI, or the `muster` on PATH, or the newest build in the checkout."""
    given = os.environ.get("MUSTER_CLI") or shutil.which("muster")
    if given:
        return given
    built = sorted(ROOT.glob("build/*/bin/muster"), key=lambda path: path.stat().st_mtime)
    assert built, "no `muster` executable: build the target muster, or set MUSTER_CLI"
    return str(built[-1])


def wait_gone(pid: int) -> None:
    """Returns when the process has ended; fails if it doesn't."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        assert ready, f"process {pid} is still there"
    finally:
        os.close(fd)


class Terminal:
    """A terminal without a screen: tests can read what programs write to it, and press keys."""

    def __init__(self, columns: int = 100, rows: int = 30):
        self.leader, self.follower = os.openpty()
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        """The programs in the foreground get SIGWINCH."""
        termios.tcsetwinsize(self.leader, (rows, columns))

    def press(self, keys: str) -> None:
        os.write(self.leader, keys.encode())

    def read_until(self, text: str) -> str:
        """Returns what programs write, up to a piece that has the text."""
        shown = ""
        while text not in shown:
            shown += self.read()
        return shown

    def read(self) -> str:
        """Returns a piece of what programs write."""
        piece = self._read()
        assert piece, "no program has the terminal open any more"
        return piece

    def read_all(self) -> str:
        """Reads until no program has the terminal open any more."""
        self.let_go()
        return "".join(iter(self._read, ""))

    def let_go(self) -> None:
        """Closes this process's end of the programs' side; the programs keep the terminal."""
        if self.follower >= 0:
            os.close(self.follower)
        self.follower = -1

    def hang_up(self) -> None:
        """Does what happens when the terminal's window is closed."""
        if self.leader >= 0:
            os.close(self.leader)
        self.leader = -1

    def close(self) -> None:
        self.let_go()
        self.hang_up()

    def _read(self) -> str:
        ready, _, _ = select.select([self.leader], [], [], PATIENCE_S)
        assert ready, "nothing was written to the terminal, and it was not closed"
        try:
            return os.read(self.leader, 1 << 16).decode(errors="replace")
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return ""


# Variables for the interpreter alone (a sanitizer's runtime).
RUNTIME = ("LD_PRELOAD", "PYTHONMALLOC")


class Muster:
    """Runs `muster` against this test's own socket."""

    def __init__(self, folder: pathlib.Path):
        self.path = find_muster()
        self.folder = folder
        self.socket = str(folder / "s")
        self.processes: list[subprocess.Popen] = []
        # Ranks may be any programs.
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("MUSTER_", *RUNTIME))}
        self.env["MUSTER_SOCKET"] = self.socket
        # For ranks that import muster.
        self.env_of_python = {**self.env, **{name: os.environ[name] for name in RUNTIME if name in os.environ}}

    def __call__(self, *words: str, **options) -> subprocess.CompletedProcess:
        options.setdefault("env", self.env)
        options.setdefault("stdin", subprocess.DEVNULL)
        if "input" in options:
            del options["stdin"]
        return subprocess.run([self.path, *words], capture_output=True, text=True, timeout=PATIENCE_S, **options)

    def start(self, *words: str, **options) -> subprocess.Popen:
        """Starts it in the background, with pipes; close() ends it at the latest."""
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen([self.path, *words], text=True, env=self.env, **options)
        self.processes.append(process)
        return process

    def start_on(self, terminal: Terminal, *words: str, **streams) -> subprocess.Popen:
        """Starts it in the foreground of the terminal. All streams are the terminal, except those that are given."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.follower) | streams
        # --ctty takes the terminal of its stdin.
        command = ["setsid", "--ctty", self.path, *words]
        process = subprocess.Popen(command, text=True, env=self.env, **streams)
        self.processes.append(process)
        return process

    def run_python(self, ranks: int, program: str, *words: str, **options) -> subprocess.CompletedProcess:
        """Runs `muster run` with a Python program given as text; `words` come before the --."""
        return self("run", "-n", str(ranks), *words, "--", sys.executable, "-c", program, **options)

    def status_once(self, condition) -> dict:
        """Waits until the condition holds for the output of `muster status --json`, and returns that."""
        until = time.monotonic() + PATIENCE_S
        while True:
            done = self("status", "--json")
            assert done.returncode == 0, done.stderr
            if condition(told := json.loads(done.stdout)):
                return told
            assert time.monotonic() < until, told

    def close(self) -> None:
        """Ends everything that the test started, including the daemon."""
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        self("stop")
