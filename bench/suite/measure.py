"""Measures one row for all systems in turn."""

from __future__ import annotations

import random

from suite import report, rows
from suite.contestants import Contestant

TURNS = 3


def measure(row: rows.Row, running: list[Contestant], ranks: int, generator: random.Random) -> list[report.Figure]:
    """Gives each system several turns in an order that changes, so that other work of the machine affects all alike."""
    times: dict[Contestant, list[float]] = {contestant: [] for contestant in running}
    cpu_us: dict[Contestant, list[float]] = {contestant: [] for contestant in running}
    for contestant in running:
        contestant.run(row.op, row.variant, row.count, 2, 0)  # warms the system up
    for turn in range(TURNS):
        for contestant in generator.sample(running, len(running)):
            took, cpu = contestant.run(row.op, row.variant, row.count, row.rounds, generator.randrange(1000) + turn)
            times[contestant] += took
            cpu_us[contestant].append(cpu)
    return [
        report.figure(each.system.name, each.system.client, row, ranks, times[each], cpu_us[each]) for each in running
    ]
