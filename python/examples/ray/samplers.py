"""A trainer changes weights while samplers use them: each sample is made with one consistent snapshot.

    python python/examples/ray/samplers.py

A snapshot is an object in the store. It does not change, and it stays as long as a sampler uses it.
"""

from __future__ import annotations

import argparse

import muster
import muster.ray
import numpy as np
import ray


@ray.remote(num_cpus=0.5)
class Trainer:
    def __init__(self, size: int) -> None:
        self.size = size
        self.version = 0

    @muster.collective_input
    def snapshot(self) -> dict[str, np.ndarray]:
        """All layers of one version. They are written one after the other: a reader of half of them would see it."""
        self.version += 1
        return {f"layer {i}": np.full(self.size, float(self.version)) for i in range(4)}


@ray.remote(num_cpus=0.5)
class Sampler:
    def sample(self, weights: muster.Ref) -> tuple[int, bool]:
        """Returns the version that the sample was made with, and whether all layers were of it."""
        layers = weights.get()
        versions = {float(value) for layer in layers.values() for value in np.unique(layer)}
        return int(min(versions)), len(versions) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--samplers", type=int, default=3)
    parser.add_argument("--size", type=int, default=250_000)
    options = parser.parse_args()
    muster.ray.init(memory="512MiB", num_cpus=4, include_dashboard=False)
    trainer = Trainer.remote(options.size)
    samplers = [Sampler.remote() for _ in range(options.samplers)]
    pending = []
    for _ in range(options.rounds):
        weights = trainer.snapshot.remote()  # the trainer goes on while the samplers work
        pending += [sampler.sample.remote(weights) for sampler in samplers]
    samples = ray.get(pending)
    versions = sorted({version for version, _ in samples})
    print(f"{len(samples)} samples of {len(versions)} versions, {sum(not whole for _, whole in samples)} mixed")
    assert all(whole for _, whole in samples)
    muster.ray.shutdown()


if __name__ == "__main__":
    main()
