"""What mpi4py and torch.distributed call the members of a group, for those who come from there."""

from __future__ import annotations

_OWN = (
    *("allreduce", "reduce", "scan", "broadcast", "allgather", "gather", "scatter", "reduce_scatter", "all_to_all"),
    *("send", "recv", "barrier", "split", "subgroup", "leave", "rank", "world_size"),
)
#: In small letters, without underscores.
_NAMES = {
    **{name.replace("_", ""): name for name in _OWN},
    "bcast": "broadcast",
    "allgatherv": "allgather",
    "allgatherintotensor": "allgather",
    "allgatherobject": "allgather",
    "gatherv": "gather",
    "gatherobject": "gather",
    "scatterv": "scatter",
    "broadcastobjectlist": "broadcast",
    "reducescatterblock": "reduce_scatter",
    "reducescattertensor": "reduce_scatter",
    "alltoallv": "all_to_all",
    "alltoallsingle": "all_to_all",
    "monitoredbarrier": "barrier",
    "getrank": "rank",
    "getsize": "world_size",
    "size": "world_size",
    "getworldsize": "world_size",
    "creategroup": "subgroup",
    "newgroup": "subgroup",
    "free": "leave",
    "destroyprocessgroup": "leave",
}


def name_here(name: str) -> str | None:
    """``allreduce`` for ``all_reduce``, ``Allreduce`` and ``Iallreduce``; None if it is none of theirs."""
    plain = name.replace("_", "").lower()
    if name.startswith("_"):
        return None  # libraries look for those
    return _NAMES.get(plain) or (_NAMES.get(plain[1:]) if plain.startswith("i") else None)
