"""Runs every system in turn, row by row, and prints the figures."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import random
import sys
from typing import TextIO

from suite import growth, plots, report, rows
from suite.contestants import contestants, systems, systems_under_ray, systems_under_torch
from suite.measure import measure


def run(built: pathlib.Path, quick: bool, only: set[str] | None, json: TextIO | None) -> list[report.Figure]:
    generator = random.Random(1)
    figures = []
    sections = [(ranks, systems(built, sys.executable, ranks), rows.rows(ranks, quick)) for ranks in rows.RANKS]
    torch_ranks = rows.RANKS_UNDER_TORCH
    sections.append((torch_ranks, systems_under_torch(sys.executable, torch_ranks), rows.under_torch()))
    sections.append((rows.RANKS_UNDER_RAY, systems_under_ray(sys.executable), rows.under_ray()))
    for ranks, listed, wanted in sections:
        if only is not None:
            listed = [system for system in listed if system.name in only]
        if not listed:
            continue
        with contestants(listed, ranks, dict(os.environ)) as running:
            print(f"{ranks} ranks: {', '.join(f'{c.system.name} ({c.system.client})' for c in running)}", flush=True)
            for row in wanted:
                taking_part = [c for c in running if row.includes(c.system.name, c.system.client)]
                for figure in measure(row, taking_part, ranks, generator):
                    figures.append(figure)
                    if json:
                        figure.dump(json)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("--built", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="fewer sizes; a few minutes")
    parser.add_argument("--only", help="names of systems, with commas: nothing else is started")
    parser.add_argument("--json", type=pathlib.Path, help="file for one JSON object for each figure")
    parser.add_argument("--plot", type=pathlib.Path, help="folder for pictures")
    parser.add_argument("--plant", action="store_true", help="spoil an input: the run must fail")
    options = parser.parse_args()
    if options.plant:
        os.environ["BENCH_PLANT"] = "1"
    with options.json.open("w") if options.json else contextlib.nullcontext() as json:
        try:
            figures = run(options.built, options.quick, options.only and set(options.only.split(",")), json)
        except RuntimeError as error:
            print(f"bench/run: {error}", file=sys.stderr)
            return 1
    curves = growth.curves(options.built) if options.only is None else {}
    print(report.table(figures), *([growth.table(curves)] if curves else []), sep="\n\n")
    if options.plot:
        plots.draw(figures, curves, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
