"""Runs one parameter sweep in any kind of pool. A worker returns a small handle; its arrays stay where they are.

Start it:  python python/examples/sweep.py --pool spawn

``simulate()`` is a plain NumPy function. The decorator makes its arrays land in Muster's store, so a pool sends about
100 bytes for each result instead of the arrays. The daemon computes the mean of all results.

    fork, spawn, forkserver    multiprocessing.Pool, with workers that are started in this way
    processes, threads         concurrent.futures
    loky, joblib-threads       joblib (pip install joblib)
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import sys
from collections.abc import Callable, Iterable

import muster
import numpy as np

WORKERS, RUNS, STEPS = 2, 12, 400


@muster.collective_input
def simulate(damping: float) -> dict[str, np.ndarray]:
    """Simulates 1,000 pendulums of different lengths. Returns where each ends, and the energy of all at each step."""
    stiffness = np.linspace(1, 4, 1000)
    angle, speed, energy = np.full(1000, 0.5), np.zeros(1000), np.empty(STEPS)
    for step in range(STEPS):
        speed -= 0.01 * (stiffness * np.sin(angle) + damping * speed)
        angle += 0.01 * speed
        energy[step] = (speed**2 / 2 + stiffness * (1 - np.cos(angle))).sum()
    return {"angle": angle, "energy": energy}


def in_pool_of(start_method: str, dampings: list[float]) -> list[muster.Ref]:
    with multiprocessing.get_context(start_method).Pool(WORKERS) as pool:
        refs = list(pool.imap(simulate, dampings))  # imap_unordered() is better for a sweep that fills the store
        pool.close()
        pool.join()
    return refs


def in_executor(executor: concurrent.futures.Executor, dampings: list[float]) -> list[muster.Ref]:
    with executor:
        return list(executor.map(simulate, dampings))


def in_joblib(backend: str, dampings: list[float]) -> list[muster.Ref]:
    import joblib

    return joblib.Parallel(n_jobs=WORKERS, backend=backend)(joblib.delayed(simulate)(each) for each in dampings)


POOLS: dict[str, Callable[[list[float]], list[muster.Ref]]] = {
    "fork": lambda dampings: in_pool_of("fork", dampings),
    "spawn": lambda dampings: in_pool_of("spawn", dampings),
    "forkserver": lambda dampings: in_pool_of("forkserver", dampings),
    "processes": lambda dampings: in_executor(concurrent.futures.ProcessPoolExecutor(WORKERS), dampings),
    "threads": lambda dampings: in_executor(concurrent.futures.ThreadPoolExecutor(WORKERS), dampings),
    "loky": lambda dampings: in_joblib("loky", dampings),
    "joblib-threads": lambda dampings: in_joblib("threading", dampings),
}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(found[name], expected[name]) for name in expected)


def average(values: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    values = list(values)
    return {name: np.mean([value[name] for value in values], axis=0) for name in values[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", choices=POOLS, default="spawn")
    pool = parser.parse_args().pool

    muster.init()
    dampings = np.linspace(0, 2, RUNS).tolist()
    refs = POOLS[pool](dampings)
    mean = muster.allreduce_refs(refs, op="mean").result()

    # The same without Muster: the function under the decorator, in this process.
    alone = [simulate.__wrapped__(damping) for damping in dampings]
    identical = all(same(ref.get(), expected) for ref, expected in zip(refs, alone))
    agrees = all(np.allclose(mean[name], value, rtol=1e-12) for name, value in average(alone).items())
    print(f"{pool}: {len(refs)} results of {refs[0].nbytes} bytes, {sum(ref.copies for ref in refs)} copies")
    print(f"results: {'bit-identical' if identical else 'DIFFERENT'}; mean: {'agrees' if agrees else 'DISAGREES'}")
    return 0 if identical and agrees else 1


if __name__ == "__main__":
    sys.exit(main())
