"""From rounds to JSON lines and a table of ratios."""

from __future__ import annotations

import dataclasses
import json
import statistics
from typing import TextIO


@dataclasses.dataclass
class Figure:
    """One line of the JSON file. bytes: of one rank's input; times: of a round's slowest rank."""

    system: str
    client: str
    op: str
    variant: str
    ranks: int
    bytes: int
    median_us: float
    min_us: float
    p99_us: float
    cpu_us: float
    gbps: float

    def dump(self, file: TextIO) -> None:
        values = {key: round(value, 3) if isinstance(value, float) else value for key, value in vars(self).items()}
        print(json.dumps(values), file=file, flush=True)


def figure(system: str, client: str, row, ranks: int, times: list[float], cpu_us: list[float]) -> Figure:
    ordered = sorted(times)
    median = statistics.median(ordered)
    moved = (ranks + 1) * row.bytes  # what a fused reduction reads and writes
    return Figure(
        system,
        client,
        row.op,
        row.variant,
        ranks,
        row.bytes,
        median,
        ordered[0],
        ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        statistics.median(cpu_us),
        moved / median / 1e3,
    )


# (op, variant of Muster, bytes, ranks or None for all) -> {peer: how many times as fast Muster shall be}
def goal(one: Figure, peer: Figure) -> float | None:
    mib = 1 << 20
    if peer.system == "openmpi" and one.client == "c++":
        if one.variant == "out":
            return 1.8 if one.bytes == 64 * mib and one.ranks > 2 else None
        if one.ranks == 2 or one.variant != "default":
            return None
        return {1 << 10: 1.0, mib: 1.5, 16 * mib: 4.0, 64 * mib: 6.0}.get(one.bytes) if one.ranks in (4, 8) else None
    if peer.system == "mpi4py" and one.client == "python" and one.bytes == 1 << 10 and one.ranks in (4, 8):
        return 1.0
    if peer.system == "gloo" and one.variant == "default":
        return 5.0 if one.ranks == 2 else 10.0
    if peer.system == "stream" and one.variant == "default" and one.bytes >= 16 * mib:
        return 0.8
    return None


def size_text(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def table(figures: list[Figure]) -> str:
    """Muster's figures, and how many times as fast as each peer they are; a goal in brackets, with ! where missed."""
    peers = ("openmpi", "mpi4py", "gloo", "stream")
    lines = [
        "| allreduce | ranks | client | median | GB/s | CPU | " + " | ".join(f"vs {peer}" for peer in peers) + " |"
    ]
    lines.append("| --- " * (6 + len(peers)) + "|")
    for one in figures:
        if one.system != "muster":
            continue
        cells = []
        for peer in peers:
            other = next(
                (f for f in figures if f.system == peer and (f.op, f.ranks, f.bytes) == (one.op, one.ranks, one.bytes)),
                None,
            )
            if other is None:
                cells.append("")
                continue
            ratio, wanted = other.median_us / one.median_us, goal(one, other)
            cells.append(f"{ratio:.2f}" + (f" ({wanted:g}{'' if ratio >= wanted else ' !'})" if wanted else ""))
        variant = "" if one.variant == "default" else f", {one.variant}"
        lines.append(
            f"| {size_text(one.bytes)}{variant} | {one.ranks} | {one.client} | {one.median_us:.1f} us | {one.gbps:.1f} "
            f"| {one.cpu_us:.0f} us | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)
