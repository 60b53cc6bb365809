"""What to measure: which ops, sizes and systems, and how many rounds of each."""

from __future__ import annotations

import dataclasses

KIB, MIB = 1 << 10, 1 << 20

COLLECTIVE_SYSTEMS = frozenset({"muster", "openmpi", "mpi4py", "gloo", "stream"})
RANKS = (1, 2, 4, 8)
RANKS_UNDER_RAY = RANKS_UNDER_TORCH = 4
#: The size of each model whose training is measured.
MODELS = {"ddp": 25 * MIB, "mlp": 25178112, "transformer": 3307392}


@dataclasses.dataclass(frozen=True)
class Row:
    op: str
    variant: str
    bytes: int  # of one rank's input; for `call`: 1 KiB for each array
    rounds: int  # in one turn
    systems: frozenset[str] = COLLECTIVE_SYSTEMS
    client: str | None = None  # Muster's client; None: both

    @property
    def count(self) -> int:
        """The number of float32 elements of one rank's input; for `call`, the number of arrays."""
        return self.bytes // KIB if self.op == "call" else self.bytes // 4

    def includes(self, system: str, client: str) -> bool:
        return system in self.systems and (system != "muster" or self.client in (None, client))


def rounds_for(size: int) -> int:
    """Makes turns of all sizes about equally long: a turn of small ops must be long enough for a steady state."""
    return max(8, min(200, 64 * MIB // max(size, 1) * 3 // 2 if size > 256 * KIB else 200))


def systems_for(size: int) -> frozenset[str]:
    """Small ops are bounded by the order in which processes run, large ones by memory."""
    return COLLECTIVE_SYSTEMS | {"mailbox"} if size <= 64 * KIB else COLLECTIVE_SYSTEMS


def _row(op: str, variant: str, size: int, *systems: str, client: str | None = None) -> Row:
    return Row(op, variant, size, rounds_for(size), frozenset(systems) or COLLECTIVE_SYSTEMS, client)


def rows(ranks: int, quick: bool) -> list[Row]:
    return one_process() if ranks == 1 else collectives(ranks, quick)


def one_process() -> list[Row]:
    found = [
        _row("put", "default", 64 * MIB, "muster", "stream", "ray_store", client="python"),
        _row("get", "default", 64 * MIB, "muster", "ray_store", client="python"),
    ]
    for arrays in (1, 10, 1000):
        for variant in ("default", "undecorated"):
            found.append(_row("call", variant, arrays * KIB, "muster", client="python"))
    return found


def collectives(ranks: int, quick: bool) -> list[Row]:
    sizes = [KIB, MIB, 16 * MIB, 64 * MIB] if quick else [KIB << shift for shift in range(0, 17, 2)]
    found = [_row("allreduce", "default", size, *systems_for(size)) for size in sizes]
    found += [_row("allreduce", "out", size, "muster") for size in (16 * MIB, 64 * MIB)]
    found += [_row("allreduce", "first_read", 64 * MIB, "muster")]
    found += [_row("allreduce", "seal", size, "muster") for size in (KIB, MIB)]
    if ranks == 4:
        found += [_row("allreduce", "produce", 64 * MIB, "muster", "ray_store", client="python")]
        for op in ("broadcast", "allgather", "gather", "scatter"):  # nothing moves, whatever the size
            found += [Row(op, "default", size, 30, frozenset({"muster"}), "c++") for size in (KIB, 64 * MIB)]
        for op in ("reduce_scatter", "all_to_all"):
            found.append(_row(op, "default", 16 * MIB, "muster", "openmpi", "gloo", client="c++"))
    return found


def under_torch() -> list[Row]:
    """What a script of torch.distributed calls, and steps of its training."""
    both = frozenset({"muster_torch", "gloo_torch"})
    found = [_row("allreduce", "default", size, *both) for size in (KIB, MIB, 16 * MIB, 64 * MIB)]
    found += [Row("ddp", variant, MODELS["ddp"], 20, both) for variant in ("default", "no_sync")]
    found += [Row(op, "default", MODELS[op], 10, both) for op in ("mlp", "transformer")]
    return found


def under_ray() -> list[Row]:
    """Groups of actors, and results of tasks."""
    found = [_row("allreduce", "default", size, "muster_ray", "ray_collective") for size in (KIB, 16 * MIB, 64 * MIB)]
    found += [_row("allreduce", "refs", size, "muster_ray") for size in (KIB, 16 * MIB, 64 * MIB)]
    found.append(Row("allreduce", "tasks", 64 * MIB, 5, frozenset({"muster_tasks", "ray_store"})))
    found += [_row("task", variant, KIB, "muster_tasks") for variant in ("default", "undecorated")]
    return found
