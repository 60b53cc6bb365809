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
from suite.contestants import contestants
from suite.measure import measure


def run(built: pathlib.Path, quick: bool, json: TextIO | None) -> list[report.Figure]:
    generator = random.Random(1)
    figures = []
    for ranks in rows.RANKS:
        with contestants(built, ranks, dict(os.environ)) as running:
            print(f"{ranks} ranks: {', '.join(f'{c.system.name} ({c.system.client})' for c in running)}", flush=True)
            for row in rows.rows(ranks, quick):
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
    parser.add_argument("--json", type=pathlib.Path, help="file for one JSON object for each figure")
    parser.add_argument("--plot", type=pathlib.Path, help="folder for pictures")
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
    curves = growth.curves(options.built)
    print(report.table(figures), growth.table(curves), sep="\n\n")
    if options.plot:
        plots.draw(figures, curves, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
