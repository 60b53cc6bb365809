"""What is measured: the sizes, and how many rounds each is worth."""

from __future__ import annotations

import dataclasses

KIB, MIB = 1 << 10, 1 << 20


@dataclasses.dataclass(frozen=True)
class Row:
    op: str
    variant: str
    bytes: int
    rounds: int  # of one turn

    @property
    def count(self) -> int:
        return self.bytes // 4


def rounds_for(size: int) -> int:
    """About as long for each size: a turn of a small op has to be long enough for a steady state."""
    return max(3, min(200, 64 * MIB // max(size, 1) * 3 // 2 if size > 256 * KIB else 200))


def allreduce_rows(quick: bool) -> list[Row]:
    sizes = [KIB, MIB, 16 * MIB, 64 * MIB] if quick else [KIB << shift for shift in range(0, 17, 2)]
    rows = [Row("allreduce", "default", size, rounds_for(size)) for size in sizes]
    rows += [Row("allreduce", "out", size, rounds_for(size)) for size in (16 * MIB, 64 * MIB)]
    rows += [Row("allreduce", "first_read", 64 * MIB, rounds_for(64 * MIB))]
    return rows
