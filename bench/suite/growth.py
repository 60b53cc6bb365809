"""Measures an op while ranks, objects, ops in flight, groups or leaves grow: no cost may grow faster than its input."""

from __future__ import annotations

import os
import pathlib
import random
import subprocess
import sys

from suite import rows
from suite.contestants import contestants, systems
from suite.measure import measure

GROWTH_RANKS = (2, 4, 8, 16, 32, 64)
# Compared with the cheapest, for each rank (object, ...). More than this is a fault.
FACTOR_MAX = 4.0
FINISH_S = 300

Curves = dict[str, list[tuple[int, float]]]  # axis -> (number, microseconds for each)


def curves(built: pathlib.Path) -> Curves:
    found: Curves = {"ranks": ranks(built)}
    printed = subprocess.run([built / "growth"], check=True, capture_output=True, text=True, timeout=FINISH_S).stdout
    for line in printed.splitlines():
        axis, number, us = line.rsplit(maxsplit=2)
        found.setdefault(axis, []).append((int(number), float(us)))
    return found


def ranks(built: pathlib.Path) -> list[tuple[int, float]]:
    """Measures a 1 KiB allreduce, in microseconds for each of its ranks."""
    row = rows.Row("allreduce", "default", rows.KIB, 100, frozenset({"muster"}), "c++")
    found = []
    for number in GROWTH_RANKS:
        listed = systems(built, sys.executable, number)
        with contestants(listed, number, dict(os.environ), only=row.includes) as running:
            figures = measure(row, running, number, random.Random(1))
        found.append((number, figures[0].median_us / number))
    return found


def table(found: Curves) -> str:
    lines = ["| growth of | microseconds for each, at number | |", "| --- | --- | --- |"]
    for axis, points in found.items():
        shown = ", ".join(f"{us:.1f} at {number}" for number, us in points)
        grows = points[-1][1] > FACTOR_MAX * min(us for _, us in points)
        lines.append(f"| {axis} | {shown} | {'grows !' if grows else ''} |")
    return "\n".join(lines)
