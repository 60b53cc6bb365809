"""Trains on handwritten digits with four actors, kills one of them in the middle, and ends with the same weights.

    python python/examples/ray/training.py

Ray restarts the actor and runs its method again. The actor takes its seat in the group again. The steps that were over
are answered from the group's history, so the method comes to the step at which it died, where the others wait.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import tempfile
from pathlib import Path

import muster
import muster.ray
import numpy as np
import ray
from sklearn.datasets import load_digits

RANKS, BATCH, RATE = 4, 64, 0.5


@ray.remote(num_cpus=0.5, max_restarts=-1, max_task_retries=-1)
class Trainer:
    def __init__(self, rank: int) -> None:
        digits = load_digits()
        self.images = (digits.data[rank::RANKS] / 16).astype(np.float32)
        self.labels = digits.target[rank::RANKS]

    @muster.collective_input
    def gradient(self, weights: np.ndarray, step: int) -> np.ndarray:
        """The gradient of the mean cross-entropy of one batch of this rank."""
        chosen = np.random.default_rng(step).integers(0, len(self.labels), BATCH)
        images, labels = self.images[chosen], self.labels[chosen]
        likely = np.exp(images @ weights)
        likely /= likely.sum(axis=1, keepdims=True)
        likely[np.arange(BATCH), labels] -= 1
        return images.T @ (likely / np.float32(BATCH))

    def train(self, name: str, steps: int, die_at: int | None, died: str) -> np.ndarray:
        group = muster.ray.group(name)
        weights = np.zeros((64, 10), np.float32)
        for step in range(steps):
            if step == die_at and not Path(died).exists():
                Path(died).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            mean = group.allreduce(self.gradient(weights, step), op="mean").result()
            weights = weights - np.float32(RATE) * mean
        return weights

    def accuracy(self, weights: np.ndarray) -> float:
        return float(((self.images @ weights).argmax(axis=1) == self.labels).mean())


def train(name: str, steps: int, die_at: int | None) -> str:
    """Trains; returns a fingerprint of the weights of all ranks."""
    trainers = [Trainer.remote(rank) for rank in range(RANKS)]
    group = muster.ray.create_group(trainers, name, timeout=120)
    with tempfile.TemporaryDirectory() as folder:
        died = str(Path(folder, "died"))
        tasks = [
            trainer.train.remote(name, steps, die_at if rank == 2 else None, died)
            for rank, trainer in enumerate(trainers)
        ]
        weights = ray.get(tasks)
    right = np.mean(ray.get([trainer.accuracy.remote(weights[0]) for trainer in trainers]))
    prints = {hashlib.sha256(each.tobytes()).hexdigest()[:16] for each in weights}
    group.destroy()
    print(f"{name}: weights {', '.join(sorted(prints))}, accuracy {right:.3f}")
    assert len(prints) == 1, "the ranks have different weights"
    return prints.pop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kill-at", type=int, default=50, help="the step at which an actor is killed")
    options = parser.parse_args()
    muster.ray.init(memory="512MiB", num_cpus=4, include_dashboard=False)
    without = train("without a loss", options.steps, None)
    killed = train(f"killed at step {options.kill_at}", options.steps, options.kill_at)
    print("weights:", "the same, bit for bit" if killed == without else "NOT the same")
    muster.ray.shutdown()


if __name__ == "__main__":
    main()
