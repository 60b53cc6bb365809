"""Starts a process for each rank with multiprocessing, lets them agree on a fit, and compares it with NumPy's.

Start it:  python python/examples/ranks.py --start forkserver

No launcher is needed: each process gets its rank as an argument and joins a group by name. Each rank has a part of one
table. A least-squares fit needs only sums over all rows. So each rank computes the sums over its own rows in a
decorated function, and an allreduce gives all ranks the total.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys

import muster
import numpy as np

ROWS, COLUMNS = 12_000, 8


def table() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    features = random.standard_normal((ROWS, COLUMNS))
    return features, features @ np.arange(COLUMNS) + random.standard_normal(ROWS)


@muster.collective_input
def sums(features: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    return {"square": features.T @ features, "cross": features.T @ targets}


def work(rank: int, world_size: int, answers: multiprocessing.Queue) -> None:
    features, targets = table()
    with muster.group("fit", rank=rank, world_size=world_size) as group:
        ref = sums(features[rank::world_size], targets[rank::world_size])
        total = group.allreduce(ref).result()
        answers.put((rank, ref.copies, np.linalg.solve(total["square"], total["cross"])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", choices=["fork", "spawn", "forkserver"], default="spawn")
    parser.add_argument("--ranks", type=int, default=3)
    options = parser.parse_args()

    muster.init()
    context = multiprocessing.get_context(options.start)
    answers = context.Queue()
    processes = [context.Process(target=work, args=(rank, options.ranks, answers)) for rank in range(options.ranks)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()

    weights = [fit for _, _, fit in found]
    identical = all(np.array_equal(weights[0], other) for other in weights)
    agrees = np.allclose(weights[0], np.linalg.lstsq(*table(), rcond=None)[0])
    print(f"{options.start}: {len(found)} ranks, {sum(copies for _, copies, _ in found)} copies")
    print(f"fit: {'bit-identical' if identical else 'DIFFERENT'} on all ranks; {'agrees' if agrees else 'DISAGREES'}")
    return 0 if identical and agrees and not any(process.exitcode for process in processes) else 1


if __name__ == "__main__":
    sys.exit(main())
