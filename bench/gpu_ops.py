"""What users' calls over arrays on a GPU take: through Python, the client and the daemon.

``bench/gpu`` runs it where Python has CuPy; the rows with PyTorch need that, too. bench/README.md says how the figures
are meant. Rows are those of ``gpu_parts/figures.cpp``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cupy
import muster
import numpy as np

DEVICE = "cuda:0"
RANKS = (2, 4, 8)
MIB = 1 << 20
SIZES = (32 << 10, MIB, 16 * MIB, 64 * MIB, 256 * MIB)
PATIENCE_S = 300


class Report:
    """Prints rows, and writes a JSON object for each into a file."""

    def __init__(self, device: str, path: str) -> None:
        self._device = device
        self._is_fake = "Fake" in device
        self._path = path
        print("\n| what | dtype | ranks | bytes | median | p99 | GB/s |  |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")

    def add(self, what: str, size: int, times_us: list[float], *, ranks: int = 0, moved: int = 0) -> None:
        """``moved``: bytes that the op gives and gets; 0: none."""
        median = statistics.median(times_us)
        p99 = sorted(times_us)[math.ceil(len(times_us) * 0.99) - 1]
        rate = moved / median / 1e3
        mark = " of a fake, means nothing" if self._is_fake else ""
        print(
            f"| {what}{mark} | float32 | {ranks or ''} | {_text(size)} | {median:.1f} us | {p99:.1f} us | "
            f"{f'{rate:.1f}' if moved else ''} |  |",
            flush=True,
        )
        if self._path:
            row = {"device": self._device, "fake": self._is_fake, "what": what, "dtype": "float32", "ranks": ranks}
            row |= {"bytes": size, "median_us": median, "min_us": min(times_us), "p99_us": p99, "gbps": rate}
            with Path(self._path).open("a", encoding="utf-8") as file:
                print(json.dumps(row), file=file)


def _text(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size >> 10} KiB"


def timed(call: Callable[[], Any], rounds: int) -> list[float]:
    """Returns the time of each call in us. What it returns is dropped while no clock runs."""
    times = []
    for _ in range(rounds + 2):
        begin = time.perf_counter()
        made = call()
        times.append((time.perf_counter() - begin) * 1e6)
        del made
    return times[2:]  # the first ones make pools and mappings


def synchronize() -> None:
    cupy.cuda.Device().synchronize()


def with_cupy(size: int) -> Callable[[], Any]:
    return lambda: cupy.full((size // 4,), 1.0, dtype=cupy.float32)


def with_torch(size: int) -> Callable[[], Any]:
    import torch

    return lambda: torch.full((size // 4,), 1.0, dtype=torch.float32, device=DEVICE)


# ---- one process ----


def measure_deposits(report: Report, sizes: list[int], rounds: int) -> None:
    """A function that allocates and fills an array, plain and decorated. The difference is what the store costs."""
    makers = {"CuPy": with_cupy}
    if _has_torch():
        makers["PyTorch"] = with_torch
    for library, maker in makers.items():
        for size in sizes:
            plain = maker(size)
            decorated = muster.collective_input(device=DEVICE)(plain)

            def waited(plain: Callable[[], Any] = plain) -> Any:
                made = plain()
                synchronize()
                return made

            copies = decorated().copies
            report.add(f"{library}: plain call", size, timed(waited, rounds))
            report.add(f"{library}: decorated call, {copies} copies", size, timed(decorated, rounds))


def sealed(size: int) -> muster.Ref:
    return muster.seal(muster.empty((size // 4,), np.float32, device=DEVICE))


def measure_puts(report: Report, sizes: list[int], rounds: int) -> None:
    for size in sizes:
        report.add("empty and seal", size, timed(lambda size=size: sealed(size), rounds))
        array = with_cupy(size)()
        synchronize()
        report.add("put: one copy", size, timed(lambda array=array: muster.put(array), rounds), moved=2 * size)
        ref = muster.put(array)
        report.add("get in the same process", size, timed(ref.get, rounds))
        report.add("to the host: one copy", size, timed(lambda ref=ref: ref.to("cpu"), rounds), moved=size)
        for where in ("cpu", "pinned"):
            on_host = ref.to(where)
            report.add(
                f"from {where}: one copy", size, timed(lambda there=on_host: there.to(DEVICE), rounds), moved=size
            )


def _has_torch() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


# ---- ranks of one GPU ----


def allreduced(group: muster.Group, size: int, rounds: int, over_host: bool) -> tuple[list[float], Any]:
    """An allreduce of arrays on the GPU, until its result lies there. Over the host each copies down and up."""
    array = cupy.full((size // 4,), float(group.rank + 1), dtype=cupy.float32)
    ref = muster.put(array)
    times = []
    result = None
    for _ in range(rounds + 2):
        result = None
        group.barrier()
        begin = time.perf_counter()
        if over_host:
            result = cupy.asarray(group.allreduce(array.get()).result())
            synchronize()
        else:
            result = group.allreduce(ref).result()
        times.append((time.perf_counter() - begin) * 1e6)
    return times[2:], result


def checked(result: Any, ranks: int) -> None:
    expected = ranks * (ranks + 1) / 2
    values = result.get()
    if not (values == expected).all():
        raise SystemExit(f"a result is wrong: not all of it is {expected}")


def run_rank(sizes: list[int], rounds: int) -> None:
    """A rank of ``muster run``. The first one prints what the slowest rank took in each round."""
    group = muster.group()
    for size in sizes:
        for over_host in (False, True):
            times, result = allreduced(group, size, rounds, over_host)
            checked(result, group.world_size)
            slowest = group.allreduce(np.array(times), op="max").result()
            if group.rank == 0:
                what = "allreduce over the host" if over_host else "allreduce on one GPU"
                print(json.dumps({"what": what, "bytes": size, "times_us": slowest.tolist()}), flush=True)


def measure_ranks(report: Report, ranks: int, sizes: list[int], rounds: int) -> None:
    command = [os.environ.get("MUSTER_CLI", "muster"), "run", "-n", str(ranks), "--", sys.executable, __file__]
    command += ["--rank", "--rounds", str(rounds), "--sizes", *map(str, sizes)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=True)
    for line in run.stdout.splitlines():
        row = json.loads(line[line.index("{") :])
        size = row["bytes"]
        report.add(row["what"], size, row["times_us"], ranks=ranks, moved=(ranks + 1) * size)


# ---- all of it ----


def measure(device: str, json_path: str, is_smoke: bool) -> None:
    sizes = list(SIZES[:2] if is_smoke else SIZES)
    rounds = 3 if is_smoke else 20
    report = Report(device, json_path)
    muster.init(start=False)
    measure_deposits(report, sizes, rounds)
    measure_puts(report, sizes, rounds)
    for ranks in RANKS[:1] if is_smoke else RANKS:
        measure_ranks(report, ranks, sizes, rounds)


def with_daemon(arguments: argparse.Namespace) -> None:
    """Starts a daemon of its own, and ends it."""
    cli = os.environ.get("MUSTER_CLI", "muster")
    memory = ["--memory", "512MiB", "--gpu-memory", "320MiB"] if arguments.smoke else ["--memory", "12GiB"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MUSTER_SOCKET"] = str(Path(folder) / "socket")
        subprocess.run([cli, "start", *memory], stdout=subprocess.DEVNULL, timeout=PATIENCE_S, check=True)
        try:
            measure(arguments.device, arguments.json, arguments.smoke)
        finally:
            subprocess.run([cli, "stop"], stdout=subprocess.DEVNULL, timeout=PATIENCE_S, check=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="a GPU", help="its name, for the rows")
    parser.add_argument("--json", default="", help="a file that the figures are added to")
    parser.add_argument("--smoke", action="store_true", help="a few small sizes only")
    parser.add_argument("--rank", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--sizes", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    if arguments.rank:
        run_rank(arguments.sizes, arguments.rounds)
    else:
        with_daemon(arguments)


if __name__ == "__main__":
    main()
