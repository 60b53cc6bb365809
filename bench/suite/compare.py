"""Compares the C++ client's allreduce of two builds in turn, as ratios. Other work of the machine affects both."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from suite import rows
from suite.contestants import Contestant, System
from suite.measure import measure
from suite.report import size_text

RANKS = (2, 4, 8)
# Two builds of one commit may differ by this much here; a larger difference of medians is worth a look.
NOISE = 0.1


@contextlib.contextmanager
def started(installed: pathlib.Path, name: str, ranks: int, folder: pathlib.Path) -> Iterator[Contestant]:
    """Starts a daemon of this build with its ranks."""
    environment = {**os.environ, "MUSTER_SOCKET": str(folder / f"{name}.sock")}
    muster = str(installed / "bin" / "muster")
    subprocess.run([muster, "start", "--memory", "3GiB"], env=environment, check=True, stdout=subprocess.DEVNULL)
    try:
        command = (muster, "run", "-n", str(ranks), "--", str(installed / "ranks" / "muster_rank"))
        contestant = Contestant(System(name, "c++", command), ranks, environment, folder)
        try:
            yield contestant
        finally:
            contestant.end()
    finally:
        subprocess.run([muster, "stop"], env=environment, check=False, stdout=subprocess.DEVNULL)


def compare(first: pathlib.Path, second: pathlib.Path) -> None:
    print("| allreduce | ranks | A | B | A / B |\n| --- | --- | --- | --- | --- |")
    for ranks in RANKS:
        with tempfile.TemporaryDirectory(prefix="muster-compare-") as folder, contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(started(installed, name, ranks, pathlib.Path(folder)))
                for name, installed in (("A", first), ("B", second))
            ]
            for size in (rows.KIB, rows.MIB, 16 * rows.MIB, 64 * rows.MIB):
                row = rows.Row("allreduce", "default", size, rows.rounds_for(size))
                a, b = (figure.median_us for figure in measure(row, running, ranks, random.Random(1)))
                note = "" if abs(a / b - 1) < NOISE else " B is faster" if a > b else " B is slower !"
                print(f"| {size_text(size)} | {ranks} | {a:.1f} us | {b:.1f} us | {a / b:.2f}{note} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/compare", description=__doc__)
    parser.add_argument("first", type=pathlib.Path)
    parser.add_argument("second", type=pathlib.Path)
    options = parser.parse_args()
    compare(options.first, options.second)
    return 0


if __name__ == "__main__":
    sys.exit(main())
