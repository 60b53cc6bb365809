"""Runs every system in turn, row by row, and prints the figures."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import random
import sys
from typing import TextIO

from suite import report, rows
from suite.contestants import Contestant, contestants

TURNS = 3


def measure(row: rows.Row, running: list[Contestant], ranks: int, generator: random.Random) -> list[report.Figure]:
    """Each system has several turns, in an order that changes, so that whatever else the machine does meets all."""
    times: dict[Contestant, list[float]] = {contestant: [] for contestant in running}
    cpu_us: dict[Contestant, list[float]] = {contestant: [] for contestant in running}
    for contestant in running:
        contestant.run(row.op, row.variant, row.count, 2, 0)  # warm
    for turn in range(TURNS):
        for contestant in generator.sample(running, len(running)):
            took, cpu = contestant.run(row.op, row.variant, row.count, row.rounds, generator.randrange(1000) + turn)
            times[contestant] += took
            cpu_us[contestant].append(cpu)
    return [
        report.figure(each.system.name, each.system.client, row, ranks, times[each], cpu_us[each]) for each in running
    ]


def run(built: pathlib.Path, quick: bool, json: TextIO | None) -> list[report.Figure]:
    generator = random.Random(1)
    figures = []
    for ranks in (2, 4, 8):
        with contestants(built, ranks, dict(os.environ)) as running:
            print(f"{ranks} ranks: {', '.join(f'{c.system.name} ({c.system.client})' for c in running)}", flush=True)
            for row in rows.allreduce_rows(quick):
                taking_part = [c for c in running if row.variant == "default" or c.system.name == "muster"]
                for figure in measure(row, taking_part, ranks, generator):
                    figures.append(figure)
                    if json:
                        figure.dump(json)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("--built", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="fewer sizes; a few minutes")
    parser.add_argument("--json", type=pathlib.Path, help="one JSON object for each figure goes to this file")
    parser.add_argument("--plant", action="store_true", help="spoil an input: the run must fail")
    options = parser.parse_args()
    if options.plant:
        os.environ["BENCH_PLANT"] = "1"
    with options.json.open("w") if options.json else contextlib.nullcontext() as json:
        try:
            figures = run(options.built, options.quick, json)
        except RuntimeError as error:
            print(f"bench/run: {error}", file=sys.stderr)
            return 1
    print(report.table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
