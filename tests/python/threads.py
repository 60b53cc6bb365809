"""Ranks as threads of one process: each has a seat of its own."""

from __future__ import annotations

import itertools
import threading

import muster

_names = itertools.count()


def as_ranks(count: int, function, **options) -> list:
    """Returns [function(group) for each rank], run in parallel; raises the first exception."""
    name = f"threads-{next(_names)}"
    results: list = [None] * count
    errors: list = []

    def run(rank: int) -> None:
        try:
            with muster.group(name, rank=rank, world_size=count, **options) as group:
                results[rank] = function(group)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
