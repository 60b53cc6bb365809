"""daemon/gpu/README.md has every call that the product makes of the driver and of NCCL, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GPU = Path(__file__).resolve().parents[2] / "daemon" / "gpu"


def calls_of(header: str) -> list[str]:
    """Returns the names of the list of calls, in its order."""
    text = (GPU / header).read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"call\(\s*\w+,\s*((?:cu|nccl)[A-Z]\w+),", text)


def rows_of(section: str) -> list[list[str]]:
    """Returns the cells of the table below the heading."""
    text = (GPU / "README.md").read_text(encoding="utf-8")
    table = text.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
    return rows[2:]


@pytest.mark.parametrize(
    ("header", "section", "known"),
    [
        ("../../include/muster/gpu/driver_calls.hpp", "Calls of the driver", "cuInit"),
        ("nccl_calls.hpp", "Calls of NCCL", "ncclAllReduce"),
    ],
)
def test_every_call_has_its_rule(header: str, section: str, known: str):
    calls = calls_of(header)
    rows = rows_of(section)
    assert known in calls
    assert [row[0] for row in rows] == calls
    assert all(len(row[-1]) > 5 for row in rows)


def test_calls_that_may_be_missing_have_a_way_without():
    text = (GPU / "nccl_calls.hpp").read_text(encoding="utf-8").replace("\\\n", " ")
    newer = {name for name, since in re.findall(r"call\(\s*\w+,\s*(nccl\w+),\s*(\d+)", text) if int(since) > 21900}
    rows = {row[0]: row for row in rows_of("Calls of NCCL")}
    assert {name for name, row in rows.items() if row[1]} == newer
    # ncclCommGetUniqueId is a part of ncclCommGrow.
    without = {name for name, row in rows.items() if "Without it: " in row[-1]}
    assert newer - without == {"ncclCommGetUniqueId"}
