"""Turns rounds into JSON lines and a table of ratios."""

from __future__ import annotations

import dataclasses
import json
import statistics
from typing import TextIO


@dataclasses.dataclass
class Figure:
    """One line of the JSON file. `bytes` is the size of one rank's input; times are those of a round's slowest rank."""

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


KIB, MIB = 1 << 10, 1 << 20
#: Their figures are not those of one op; the table has lines of their own for them.
PARTS = ("call", "task", "ddp", "mlp", "transformer")


def peer_of(one: Figure) -> tuple[str, ...]:
    """The systems that the table compares with a figure of Muster."""
    if one.system != "muster":
        return {"muster_ray": ("ray_collective",), "muster_torch": ("gloo_torch",)}.get(one.system, ("ray_store",))
    if one.op == "allreduce":
        return ("ray_store",) if one.variant == "produce" else ("openmpi", "mpi4py", "gloo", "stream", "mailbox")
    return {"put": ("stream", "ray_store"), "get": ("ray_store",)}.get(one.op, ("openmpi", "gloo"))


#: Muster's systems, and what the table calls their clients.
OURS = {"muster": "", "muster_ray": "ray, actors", "muster_tasks": "ray, tasks", "muster_torch": "torch"}


def is_same(one: Figure, other: Figure) -> bool:
    """Whether a figure is of the same op. Ray's store is measured twice: alone, and among what runs under Ray."""
    if other.system == "ray_store" and one.variant != other.variant:
        return False
    return (other.op, other.ranks, other.bytes) == (one.op, one.ranks, one.bytes)


def goal(one: Figure, peer: Figure) -> float | None:
    """How many times as fast as the peer Muster should be."""
    if one.op == "put" and peer.system == "stream":
        return 1 / 1.15
    if one.op in ("reduce_scatter", "all_to_all"):
        return 3.0
    if one.op != "allreduce":
        return None
    if one.system == "muster_ray":
        return 4.0 if one.variant == "default" and one.bytes == 64 * MIB else 10.0
    if one.system == "muster_torch":
        return {KIB: 10.0, MIB: 10.0, 64 * MIB: 4.0}.get(one.bytes)
    if one.variant in ("produce", "tasks"):
        return 10.0
    if peer.system == "openmpi" and one.client == "c++" and one.ranks in (4, 8):
        if one.variant == "out":
            return 1.8 if one.bytes == 64 * MIB else None
        if one.variant == "default":
            wanted = {1 << 10: 1.0, 64 * MIB: 6.0}
            return {**wanted, MIB: 1.5, 16 * MIB: 4.0}.get(one.bytes) if one.ranks == 4 else wanted.get(one.bytes)
        return None
    if peer.system == "mpi4py" and one.client == "python" and one.bytes == 1 << 10 and one.ranks in (4, 8):
        return 1.0 if one.variant == "default" else None
    if peer.system == "gloo" and one.variant == "default":
        return 5.0 if one.ranks == 2 else 10.0
    if peer.system == "stream" and one.variant == "default" and one.bytes >= 16 * MIB:
        return 0.8
    return None


def limit_us(one: Figure) -> float | None:
    """How long the op may take, whatever the peers' times are."""
    if one.op == "get":
        return 20.0
    if one.op in ("broadcast", "allgather", "gather", "scatter"):
        return 100.0
    return None


def size_text(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def cell(one: Figure, other: Figure) -> str:
    ratio, wanted = other.median_us / one.median_us, goal(one, other)
    return f"{other.system} {ratio:.2f}" + (f" ({wanted:.2g}{'' if ratio >= wanted else ' !'})" if wanted else "")


def table(figures: list[Figure]) -> str:
    """Shows Muster's figures, and how many times as fast as each peer it is; goals in brackets, with ! where missed."""
    lines = [
        "| op | ranks | client | median | GB/s | CPU | times as fast as |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in figures:
        if one.system not in OURS or one.op in PARTS:
            continue
        peers = [cell(one, other) for other in figures if other.system in peer_of(one) and is_same(one, other)]
        if limit := limit_us(one):
            peers.insert(0, f"at most {limit:g} us{'' if one.median_us <= limit else ' !'}")
        variant = "" if one.variant == "default" else f", {one.variant}"
        client = OURS[one.system] or one.client
        lines.append(
            f"| {one.op} {size_text(one.bytes)}{variant} | {one.ranks} | {client} | {one.median_us:.1f} us "
            f"| {one.gbps:.1f} | {one.cpu_us:.0f} us | {', '.join(peers)} |"
        )
    return "\n".join(lines + calls(figures) + tasks(figures) + steps(figures))


CALL_LIMITS_US = {1: 20, 10: 40, 1000: 1000}
TASK_LIMIT_US = 150


def calls(figures: list[Figure]) -> list[str]:
    """Shows how much longer a decorated call takes than the same call without the decorator."""
    found = {(one.bytes >> 10, one.variant): one.median_us for one in figures if one.op == "call"}
    lines = []
    for arrays, limit in CALL_LIMITS_US.items():
        if (arrays, "default") not in found:
            continue
        more = found[arrays, "default"] - found[arrays, "undecorated"]
        missed = "" if more <= limit else " !"
        lines.append(
            f"| decorated call, {arrays} arrays | 1 | python | {more:.1f} us more | | | at most {limit} us{missed} |"
        )
    return lines


def tasks(figures: list[Figure]) -> list[str]:
    """Shows how much longer a task of Ray takes if its function is marked."""
    found = {one.variant: one.median_us for one in figures if one.op == "task"}
    if not found:
        return []
    more = found["default"] - found["undecorated"]
    return [
        f"| marked task, 1 KiB | 1 | ray, tasks | {more:.0f} us more than {found['undecorated']:.0f} us | | "
        f"| at most {TASK_LIMIT_US} us{'' if more <= TASK_LIMIT_US else ' !'} |"
    ]


DDP_GOAL = 3.0


def steps(figures: list[Figure]) -> list[str]:
    """Shows how long steps of training with torch take, and what DDP's communication adds to one."""
    found = {(one.op, one.variant, one.system): one for one in figures if one.op in ("ddp", "mlp", "transformer")}
    lines = []
    for (op, variant, system), one in found.items():
        if system != "muster_torch" or variant != "default":
            continue
        peer = found.get((op, variant, "gloo_torch"))
        name, ours, theirs, goal = f"training step, {op}", one.median_us, peer and peer.median_us, ""
        if op == "ddp":
            name = "DDP's communication"
            ours -= found[op, "no_sync", system].median_us
            theirs = peer and peer.median_us - found[op, "no_sync", peer.system].median_us
            goal = f" ({DDP_GOAL:.2g}{'' if theirs and theirs >= DDP_GOAL * ours else ' !'})"
        times = f"gloo_torch {theirs / ours:.2f}{goal}, which takes {theirs:.0f} us" if theirs else ""
        lines.append(f"| {name}, {size_text(one.bytes)} | {one.ranks} | torch | {ours:.0f} us | | | {times} |")
    return lines
