"""Trains on handwritten digits by a parameter server: workers take its weights, and send gradients when they have them.

    python python/examples/ray/parameter_server.py

Nobody waits for the slowest worker. The weights and the gradients stay in Muster's store; Ray carries small refs.
"""

from __future__ import annotations

import argparse

import muster
import muster.ray
import numpy as np
import ray
from sklearn.datasets import load_digits

BATCH, RATE = 64, 0.25


@ray.remote(num_cpus=0.5)
class Server:
    def __init__(self) -> None:
        self.weights = np.zeros((64, 10), np.float32)

    @muster.collective_input
    def apply(self, gradient: muster.Ref | None) -> np.ndarray:
        """Makes a step, and returns the new weights."""
        if gradient is not None:
            self.weights -= np.float32(RATE) * gradient.get()
        return self.weights.copy()  # made in this call: it is stored without another copy


@ray.remote(num_cpus=0.5)
class Worker:
    def __init__(self, rank: int, workers: int) -> None:
        digits = load_digits()
        self.images = (digits.data[rank::workers] / 16).astype(np.float32)
        self.labels = digits.target[rank::workers]
        self.random = np.random.default_rng(rank)

    @muster.collective_input
    def gradient(self, weights: muster.Ref) -> np.ndarray:
        chosen = self.random.integers(0, len(self.labels), BATCH)
        images, labels = self.images[chosen], self.labels[chosen]
        likely = np.exp(images @ weights.get())
        likely /= likely.sum(axis=1, keepdims=True)
        likely[np.arange(BATCH), labels] -= 1
        return images.T @ (likely / np.float32(BATCH))


def accuracy(weights: np.ndarray) -> float:
    digits = load_digits()
    return float(((digits.data / 16 @ weights).argmax(axis=1) == digits.target).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--updates", type=int, default=300)
    options = parser.parse_args()
    muster.ray.init(memory="256MiB", num_cpus=4, include_dashboard=False)
    server = Server.remote()
    workers = [Worker.remote(rank, options.workers) for rank in range(options.workers)]
    weights = server.apply.remote(None)
    print(f"before: accuracy {accuracy(muster.ray.get(weights)):.3f}")
    running = {worker.gradient.remote(weights): worker for worker in workers}
    for _ in range(options.updates):
        (ready,), _ = ray.wait(list(running))
        worker = running.pop(ready)
        weights = server.apply.remote(ready)
        running[worker.gradient.remote(weights)] = worker
    reached = accuracy(muster.ray.get(weights))
    print(f"after {options.updates} updates: accuracy {reached:.3f}")
    assert reached > 0.8
    muster.ray.shutdown()


if __name__ == "__main__":
    main()
