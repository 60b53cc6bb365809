"""Runs the real `muster` executable, with a daemon on a socket of the test's own."""

import os
import pathlib
import select
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE_S = 60  # a bound for what must happen; nothing waits for it when all is well


def find_muster() -> str:
    """$MUSTER_CLI, else the one on PATH, else the newest build in the tree."""
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


class Muster:
    """Runs `muster` against this test's own socket."""

    def __init__(self, folder: pathlib.Path):
        self.path = find_muster()
        self.folder = folder
        self.socket = str(folder / "s")
        self.processes: list[subprocess.Popen] = []
        # Without what is meant for the interpreter alone (a sanitizer's runtime): ranks are any programs.
        dropped = ("MUSTER_", "LD_PRELOAD", "PYTHONMALLOC")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self.env["MUSTER_SOCKET"] = self.socket

    def __call__(self, *words: str, **options) -> subprocess.CompletedProcess:
        options.setdefault("env", self.env)
        options.setdefault("stdin", subprocess.DEVNULL)
        if "input" in options:
            del options["stdin"]
        return subprocess.run([self.path, *words], capture_output=True, text=True, timeout=PATIENCE_S, **options)

    def start(self, *words: str, **options) -> subprocess.Popen:
        """In the background, with pipes; ended by close() at the latest."""
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen([self.path, *words], text=True, env=self.env, **options)
        self.processes.append(process)
        return process

    def run_python(self, ranks: int, program: str, *words: str, **options) -> subprocess.CompletedProcess:
        """`muster run` of a Python program given as text; `words` come before the --."""
        return self("run", "-n", str(ranks), *words, "--", sys.executable, "-c", program, **options)

    def close(self) -> None:
        """Ends what the test started, the daemon too."""
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        self("stop")
